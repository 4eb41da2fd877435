"""Forking the virtual machine this program runs in.

    import hyperfork
    k = hyperfork.fork(8)       # 0 here, 1 to 8 in the clones
    if k:
        hyperfork.done(work(k)) # the clone's result; it ends

A clone is the whole machine with every process in it, as it is at that moment;
this one goes on in each. Needs root.
"""

import os

__all__ = ["identity", "generation", "fork", "done"]

_IDENTITY = "/run/hyperfork/identity.json"
_GENERATION = "/run/hyperfork/generation"
_page = None


def identity():
    """Who this machine is: name, index among the clones of the latest fork (0
    for the parent), generation, cid."""
    import json  # costs more than it is worth for fork and done

    while True:
        with open(_IDENTITY, encoding="utf-8") as file:
            text = file.read()
        try:
            it = json.loads(text)
        except ValueError:
            continue
        # Or it was read while it was written.
        if it["generation"] == it.pop("generation_again"):
            return it


def generation():
    """How many forks lie between this machine and the boot: when it is another than the last
    time, the machine has been cloned since, and what must not be the same in two machines is to
    be made anew. Quick enough to be asked before each use."""
    global _page
    if _page is None:
        import mmap

        with open(_GENERATION, "rb") as file:
            _page = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)).cast("I")
    return _page[0]


def fork(n=1):
    """Has this machine forked into n clones and returns which one this is: 0 in the
    parent, k in the k-th clone. OSError if there is no clone; standard error tells
    why."""
    return int(_run("hf-fork", n))


def done(code=0):
    """Tells the host that this machine's work is done, with a result code from 0
    to 16777215. Ends a clone, so it only returns in a machine that was booted."""
    _run("hf-done", code)


def _run(program, argument):
    reader, writer = os.pipe()
    try:
        child = os.posix_spawn(
            f"/usr/bin/{program}",
            [program, str(argument)],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)],
        )
    finally:
        os.close(writer)
    with open(reader, encoding="ascii") as output:
        answer = output.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 0:
        raise OSError(f"{program} failed with status {status}")
    return answer
