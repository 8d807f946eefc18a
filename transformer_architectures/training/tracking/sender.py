"""The thread that brings a run's journal to one store while training goes on."""

import logging
import sys
import threading
import time

from transformer_architectures.training.tracking.destination import Destination

SEND_INTERVAL = 5.0  # seconds between two looks at the journal: a call to SQLite costs 25 ms whatever it carries
LONGEST_WAIT = 60.0  # seconds between two tries of a server that does not answer
SECONDS_TO_FLUSH = {"local": 60.0, "server": 30.0}  # at the end of a run, while the store answers
LONGEST_SILENCE = 8.0  # seconds that the end of a run waits for an answer

logger = logging.getLogger(__name__)


class Sender(threading.Thread):
    """Brings the journal to one store while the run goes on. A store that does not answer is tried less and less often."""

    def __init__(self, destination: Destination) -> None:
        super().__init__(name=f"tracking {destination.cursor.uri}", daemon=True)
        self.destination = destination
        self.closing = threading.Event()

    def run(self) -> None:
        while True:
            try:
                with self.destination.exclusive() as alone:
                    if alone:
                        self.send_until_closed()
                        return
                # `sync` sends for this run; it may not have seen the last entries.
                self.destination.problem = "another process is sending to it"
            except OSError as error:  # there is no room for the lock's file
                self.destination.problem = str(error)
                if self.closing.is_set():
                    return
            self.closing.wait(1.0)
            time.sleep(0.1)

    def send_until_closed(self) -> None:
        """Sends what there is, again and again; for the last time when the run is over."""
        wait = SEND_INTERVAL
        while True:
            closing = self.closing.is_set()  # asked before the journal is read: no entry comes after it is set
            answered = self.destination.drain(retry_failed=closing)
            if closing:
                return
            if not answered and wait == SEND_INTERVAL:
                self.complain()
            wait = SEND_INTERVAL if answered else min(2 * wait, LONGEST_WAIT)
            self.closing.wait(wait)

    def complain(self) -> None:
        """Says once per outage that the store is away."""
        uri, problem = self.destination.cursor.uri, self.destination.problem
        logger.warning("tracking: %s does not answer (%s); training goes on, all is kept and sent later", uri, problem)

    def finish(self, closed_at: float) -> None:
        """Waits for the last sending, for a bounded time, and says what it could not do.

        Args:
            closed_at: when the run ended, by ``time.monotonic``: from then on all its senders share the time.
        """
        destination = self.destination
        limit = closed_at + SECONDS_TO_FLUSH["local" if destination.local else "server"]
        while self.is_alive():
            heard_at = max(closed_at, destination.answered_at)
            left = min(limit, heard_at + LONGEST_SILENCE) - time.monotonic()
            if left <= 0:
                break
            self.join(left)
        if destination.num_left:
            problem = destination.problem or "there was no time"
            uri = destination.cursor.uri
            print(f"Tracking: {destination.num_left} entries are not at {uri} yet: {problem}", file=sys.stderr)
