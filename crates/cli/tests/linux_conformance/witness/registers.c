/* All registers a program has (but vectors.c's, and the stack's two): on each of two
 * CPUs they are filled, left alone for a while, and compared. */
#include "witness.h"

/* FXSAVE's image (AMD APM vol. 2, 11.4.4), as far as it is compared. */
struct fx {
    uint16_t fcw, fsw;
    uint8_t ftw, reserved;
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    struct {
        uint8_t value[10], reserved[6];
    } st[8];
    uint8_t xmm[16][16];
    uint8_t rest[96];
} __attribute__((aligned(16)));

_Static_assert(sizeof(struct fx) == 512, "FXSAVE writes 512 bytes");

enum { GENERAL = 11, SPINS = 10 * 1000 * 1000 };

struct registers {
    struct fx fx;
    uint64_t general[GENERAL];
};

/* Loads `in`, spins, stores into `out`. */
static void hold(const struct registers *in, struct registers *out)
{
    uint64_t spins = SPINS;
    const void *source = in;
    __asm__ volatile("fxrstor64 (%%rsi)\n"
                     "mov 512(%%rsi), %%rax\n"
                     "mov 520(%%rsi), %%rbx\n"
                     "mov 528(%%rsi), %%rdx\n"
                     "mov 536(%%rsi), %%r8\n"
                     "mov 544(%%rsi), %%r9\n"
                     "mov 552(%%rsi), %%r10\n"
                     "mov 560(%%rsi), %%r11\n"
                     "mov 568(%%rsi), %%r12\n"
                     "mov 576(%%rsi), %%r13\n"
                     "mov 584(%%rsi), %%r14\n"
                     "mov 592(%%rsi), %%r15\n"
                     "1: dec %%rcx\n"
                     "jnz 1b\n"
                     "fxsave64 (%%rdi)\n"
                     "mov %%rax, 512(%%rdi)\n"
                     "mov %%rbx, 520(%%rdi)\n"
                     "mov %%rdx, 528(%%rdi)\n"
                     "mov %%r8, 536(%%rdi)\n"
                     "mov %%r9, 544(%%rdi)\n"
                     "mov %%r10, 552(%%rdi)\n"
                     "mov %%r11, 560(%%rdi)\n"
                     "mov %%r12, 568(%%rdi)\n"
                     "mov %%r13, 576(%%rdi)\n"
                     "mov %%r14, 584(%%rdi)\n"
                     "mov %%r15, 592(%%rdi)\n"
                     "fninit\n"
                     : "+c"(spins), "+S"(source)
                     : "D"(out)
                     : "memory", "cc", "rax", "rbx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13",
                       "r14", "r15", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
                       "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",
                       "xmm15");
    const uint32_t mxcsr = 0x1f80;
    __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
}

static void fill(struct registers *registers, uint64_t cpu, uint64_t round)
{
    memset(registers, 0, sizeof *registers);
    struct fx *fx = &registers->fx;
    /* Rounding down and up, and all exceptions masked. */
    fx->fcw = cpu ? 0x77f : 0xb7f;
    fx->mxcsr = cpu ? 0x3f80 : 0x5f80;
    fx->ftw = 0xff;
    for (int i = 0; i < 8; i++) {
        uint64_t mantissa = mix(cpu, round, i) | 1ULL << 63;
        uint16_t exponent = 16383 + i;
        memcpy(fx->st[i].value, &mantissa, 8);
        memcpy(fx->st[i].value + 8, &exponent, 2);
    }
    for (int i = 0; i < 16; i++) {
        uint64_t halves[2] = {mix(cpu, round, 100 + i), mix(cpu, round, 200 + i)};
        memcpy(fx->xmm[i], halves, 16);
    }
    for (int i = 0; i < GENERAL; i++)
        registers->general[i] = mix(cpu, round, 300 + i);
}

static void compare(const struct registers *in, const struct registers *out, uint64_t cpu)
{
    const struct fx *a = &in->fx, *b = &out->fx;
    unsigned n = cpu;
    if (a->fcw != b->fcw || a->fsw != b->fsw || a->ftw != b->ftw)
        bad("registers", "CPU %u: x87 control %x %x %x, not %x %x %x", n, b->fcw, b->fsw, b->ftw,
            a->fcw, a->fsw, a->ftw);
    if (a->mxcsr != b->mxcsr)
        bad("registers", "CPU %u: MXCSR %x, not %x", n, b->mxcsr, a->mxcsr);
    for (int i = 0; i < 8; i++)
        if (memcmp(a->st[i].value, b->st[i].value, 10))
            bad("registers", "CPU %u: ST%d", n, i);
    for (int i = 0; i < 16; i++)
        if (memcmp(a->xmm[i], b->xmm[i], 16))
            bad("registers", "CPU %u: XMM%d", n, i);
    for (int i = 0; i < GENERAL; i++)
        if (in->general[i] != out->general[i])
            bad("registers", "CPU %u: general register %d", n, i);
}

static void *on_cpu(void *argument)
{
    uint64_t cpu = (uintptr_t)argument;
    const char *part = cpu ? "registers-1" : "registers-0";
    pin(cpu);
    static struct registers ins[2], outs[2];
    struct registers *in = &ins[cpu], *out = &outs[cpu];
    for (uint64_t round = 1;; round++) {
        fill(in, cpu, round);
        hold(in, out);
        compare(in, out, cpu);
        progress(part, round);
    }
    return NULL;
}

void registers_part(void)
{
    start_on_both_cpus(on_cpu);
}
