"""After a fork of the machine, generators that were seeded before it are seeded anew before
their next draw: those of `random`, OpenSSL's, and what `uuid1` goes by.

Sitecustomize calls `watch` when such a module has been imported. Draws then pass a few
instructions that compare the machine's generation, which is in a page that the agent
writes, with the one that the generator was last seeded in. As long as they are the same
that costs a nanosecond; a comparison in Python would make `random.random()` four times as
slow (110 ns instead of 25).
"""

import ctypes
import os
from _weakrefset import WeakSet

_GENERATION = "/run/hyperfork/generation"
_PAGE = 4096
# Random bytes of this machine's own, in the same page.
_OWN, _OWN_LEN = 16, 32


def _map(protection, flags, file):
    """An address, as mmap(2) gives it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    address = libc.mmap(None, _PAGE, protection, flags, file, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    return address


def _map_generation():
    file = os.open(_GENERATION, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _map(1, 1, file)  # PROT_READ, MAP_SHARED
    finally:
        os.close(file)


_page = _map_generation()
_generation = ctypes.c_uint32.from_address(_page)


class _Code:
    """A page of machine code, and the numbers that it needs, from its end."""

    def __init__(self):
        self.address = _map(7, 0x22, -1)  # all may be done with it; private, anonymous
        self.used, self.free = 0, _PAGE

    def number(self, value):
        self.free -= 4
        number = ctypes.c_uint32.from_address(self.address + self.free)
        number.value = value
        return number

    def guard(self, function, renew, seen):
        """The address of code that does what `function` does, with up to four arguments, but
        calls `renew` first where the generation is not `seen`: as
        `renew(own bytes, their number, 0.0)`."""

        def imm64(value):
            return value.to_bytes(8, "little")

        seen = ctypes.addressof(seen)
        go_on = b"\x49\xbb" + imm64(function) + b"\x41\xff\xe3"  # jmp function, by r11
        code = b"".join([
            b"\x48\xb8" + imm64(_page) + b"\x8b\x00",  # mov eax, [generation]
            b"\x49\xba" + imm64(seen) + b"\x41\x3b\x02",  # cmp eax, [seen], by r10
            b"\x75" + len(go_on).to_bytes(1, "little"),  # jne behind
            go_on,
            b"\x57\x56\x52\x51\x50",  # push rdi, rsi, rdx, rcx, rax; the stack is aligned now
            b"\x48\xbf" + imm64(_page + _OWN),  # mov rdi, own bytes
            b"\xbe" + _OWN_LEN.to_bytes(4, "little"),  # mov esi, their number
            b"\x0f\x57\xc0",  # xorps xmm0, xmm0
            b"\x48\xb8" + imm64(renew) + b"\xff\xd0",  # call renew
            b"\x58\x59\x5a\x5e\x5f",  # pop rax, rcx, rdx, rsi, rdi
            b"\x49\xba" + imm64(seen) + b"\x41\x89\x02",  # mov [seen], eax
            go_on,
        ])
        start = self.address + self.used
        self.used += len(code)
        assert self.used <= self.free
        ctypes.memmove(start, code, len(code))
        return start


_code = _Code()
# What machine code refers to must live as long as it.
_kept = []


def _fresh():
    """A number to seed with. The kernel's randomness keeps it from others in the machine, the
    page's is that of no other machine, whatever the kernel's generator has been told by now."""
    return int.from_bytes(os.urandom(32) + ctypes.string_at(_page + _OWN, _OWN_LEN), "little")


def _watch_random(random):
    """All that draw from the kernel's randomness by themselves: the module's own generator, and
    others that were not given a seed. Who gives one wants the numbers that follow from it."""
    from _random import Random as Base

    Random, own = random.Random, random._inst
    unseeded = WeakSet([own])

    @ctypes.CFUNCTYPE(None)
    def renew():
        for generator in list(unseeded):
            Base.seed(generator, _fresh())
            generator.gauss_next = None

    _kept.append(renew)
    renew = ctypes.cast(renew, ctypes.c_void_p).value
    seen = _code.number(_generation.value)
    for method in (Base.random, Base.getrandbits):
        # PyMethodDescrObject.d_method, whose second word is ml_meth.
        definition = ctypes.c_void_p.from_address(id(method) + 40).value
        name = ctypes.c_char_p.from_address(definition).value
        if name != method.__name__.encode():
            raise RuntimeError("this is another Python than the one this module knows")
        function = ctypes.c_void_p.from_address(definition + 8)
        function.value = _code.guard(function.value, renew, seen)

    seed, setstate, gauss = Random.seed, Random.setstate, Random.gauss

    def watched_seed(self, a=None, version=2):
        seed(self, a, version)
        (unseeded.discard if a is not None else unseeded.add)(self)

    def watched_setstate(self, state):
        setstate(self, state)
        unseeded.discard(self)

    def watched_gauss(self, mu=0.0, sigma=1.0):
        # It keeps every second number for later.
        if seen.value != _generation.value:
            self.getrandbits(1)
        return gauss(self, mu, sigma)

    for name, watched in (
        ("seed", watched_seed), ("setstate", watched_setstate), ("gauss", watched_gauss),
    ):
        original = getattr(Random, name)
        watched.__doc__, watched.__name__ = original.__doc__, name
        watched.__qualname__, watched.__module__ = original.__qualname__, "random"
        setattr(Random, name, watched)
        setattr(random, name, getattr(own, name))
    # `random` itself seeds it anew there.
    os.register_at_fork(after_in_child=lambda: unseeded.add(own))


def _watch_ssl(_ssl):
    """OpenSSL's generators, whoever draws from them in this process."""
    crypto = ctypes.CDLL("libcrypto.so.3")
    crypto.RAND_OpenSSL.restype = ctypes.c_void_p
    crypto.RAND_set_rand_method.argtypes = [ctypes.c_void_p]
    # RAND_METHOD: seed, bytes, cleanup, add, pseudorand, status.
    method = (ctypes.c_void_p * 6).from_buffer_copy(
        ctypes.string_at(crypto.RAND_OpenSSL(), 6 * 8)
    )
    # Its primary generator takes new entropy from the kernel when something is added to it, and
    # those of all threads take theirs from it before they draw again.
    add = ctypes.cast(crypto.RAND_add, ctypes.c_void_p).value
    seen = _code.number(_generation.value)
    for draw in (1, 4):
        method[draw] = _code.guard(method[draw], add, seen)
    _kept.append(method)
    crypto.RAND_set_rand_method(ctypes.addressof(method))


def _watch_uuid(uuid):
    """The library behind `uuid1` would go on with the address and the clock sequence that it had
    before the fork: after it, Python's own does it, with a node of the clone's own."""
    seen = _generation.value

    def renewed(function):
        def watched(*args, **kwargs):
            nonlocal seen
            if seen != _generation.value:
                seen = _generation.value
                # RFC 9562, 6.10: random, with the multicast bit.
                uuid._node = _fresh() & (1 << 48) - 1 | 1 << 40
                uuid._generate_time_safe = uuid._UuidCreate = None
            return function(*args, **kwargs)

        watched.__doc__, watched.__name__ = function.__doc__, function.__name__
        watched.__qualname__, watched.__module__ = function.__qualname__, "uuid"
        watched.__wrapped__ = function
        return watched

    uuid.uuid1, uuid.getnode = renewed(uuid.uuid1), renewed(uuid.getnode)


watch = {"random": _watch_random, "_ssl": _watch_ssl, "uuid": _watch_uuid}
