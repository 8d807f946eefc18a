"""How much a training costs before it is started: operations, memory, bytes over the network, time."""
