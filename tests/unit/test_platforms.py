"""The package where a system has no more than Windows has: every module is imported, and a tiny model is trained and used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = """
Model: {architecture: vanilla, vocab_size: 60, embed_dim: 8, num_heads: 2, ff_dim: 16, num_layers: 1, max_length: 16}
Training: {max_steps: 2, batch_tokens: 200, num_threads: 1, num_beams: 2, log_interval: 1, device: cpu, checkpoint_root: outputs}
Data: {train: {file: pairs.tsv}, validation_fraction: 0.1, max_length: 15, num_workers: NUM_WORKERS, cache_dir: cache}
"""

# What torch and the others use is left to them: only the modules of this package are given modules with less in them.
SCRIPT = """if True:
    import builtins, importlib, multiprocessing, os, pkgutil, signal, sys, types

    MISSING_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
    MISSING = {
        "os": {
            "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC", "WNOHANG", "chown", "chroot", "fchown", "fdatasync",
            "fork", "forkpty", "getegid", "geteuid", "getgid", "getloadavg", "getpgid", "getpgrp", "getsid", "getuid", "killpg",
            "lockf", "mkfifo", "mknod", "nice", "openpty", "pipe2", "posix_fadvise", "posix_fallocate", "posix_spawn", "pread",
            "preadv", "pwrite", "pwritev", "register_at_fork", "sched_getaffinity", "sched_setaffinity", "sendfile", "setpgid",
            "setsid", "statvfs", "sync", "sysconf", "uname", "wait", "wait3", "wait4", "waitid",
        },
        "signal": {
            "ITIMER_REAL", "SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGUSR1",
            "SIGUSR2", "SIG_BLOCK", "SIG_SETMASK", "SIG_UNBLOCK", "alarm", "getitimer", "pause", "pthread_kill",
            "pthread_sigmask", "setitimer", "siginterrupt", "sigpending", "sigtimedwait", "sigwait", "sigwaitinfo",
        },
        "ctypes": set(), "multiprocessing": set(), "time": {"tzset"}, "socket": {"AF_UNIX", "socketpair"},
    }

    class Fewer(types.ModuleType):
        def __init__(self, module, missing, **other):
            super().__init__(module.__name__)
            self.__dict__.update(other, _module=module, _missing=missing)

        def __getattr__(self, name):
            if name in self._missing:
                raise AttributeError(f"{self.__name__} has no {name} here")
            return getattr(self._module, name)

    def open_no_folder(path, flags, *mode):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return os.open(path, flags, *mode)

    def flush_what_is_open_for_writing(descriptor):
        import fcntl
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        os.fsync(descriptor)

    def handle(number, handler):
        assert number in (signal.SIGINT, signal.SIGTERM), number
        return signal.signal(number, handler)

    def only_spawn(method=None):
        assert method in (None, "spawn"), method
        return multiprocessing.get_context(method)

    def load_library(name, *rest):
        raise TypeError("there is no library without a name")

    OTHER = {
        "os": {"name": "nt", "open": open_no_folder, "fsync": flush_what_is_open_for_writing},
        "signal": {"signal": handle},
        "ctypes": {"CDLL": load_library},
        "multiprocessing": {"get_all_start_methods": lambda: ["spawn"], "get_context": only_spawn},
    }
    fewer = {
        name: Fewer(importlib.import_module(name), missing, **OTHER.get(name, {})) for name, missing in MISSING.items()
    }
    import_all, rename = builtins.__import__, os.rename

    def import_fewer(name, globals=None, locals=None, fromlist=(), level=0):
        if not level and str((globals or {}).get("__name__")).startswith("transformer_architectures"):
            if name in MISSING_MODULES:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in fewer:
                return fewer[name]
        return import_all(name, globals, locals, fromlist, level)

    def rename_to_a_new_name(source, target, **options):  # `pathlib` calls it for `Path.rename`
        if os.path.lexists(target):
            raise FileExistsError(17, "File exists", str(source), None, str(target))
        rename(source, target, **options)

    def run():
        builtins.__import__, os.rename = import_fewer, rename_to_a_new_name
        multiprocessing.set_start_method("spawn")
        package = importlib.import_module("transformer_architectures")
        names = [module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
        for name in names:
            importlib.import_module(name)
        from transformer_architectures.utils import processes
        assert not hasattr(processes.os, "fork") and not hasattr(processes.signal, "SIGUSR1")
        print(len(names))
        from transformer_architectures.cli import main
        main(["train", "my.yaml", "--resume", "auto"])

    if __name__ == "__main__":
        run()
"""


@pytest.mark.parametrize(
    "num_workers", [0, pytest.param(1, marks=pytest.mark.slow)]
)  # each is spawned, and imports torch
def test_imported_and_trained_with_what_windows_has(tmp_path: Path, num_workers: int) -> None:
    rows = [f"{word} {index}\t{index} {word}\n" for index in range(30) for word in ("ba lo", "mi tu", "sa ro")]
    (tmp_path / "pairs.tsv").write_text("".join(rows))
    (tmp_path / "my.yaml").write_text(CONFIG.replace("NUM_WORKERS", str(num_workers)))
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 150  # modules
    (run,) = (tmp_path / "outputs" / "vanilla").iterdir()
    results = json.loads((run / "model" / "results.json").read_text())
    assert results["global_step"] == 2 and (run / "model" / "model.safetensors").exists()
