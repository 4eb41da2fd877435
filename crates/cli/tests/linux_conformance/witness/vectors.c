/* The vector registers, XMM to ZMM and the masks of AVX-512: eight processes hold values in all
 * that the processor has, and are interrupted by signals whose handler uses them for
 * something else, fork, and start programs, which must find them as the ABI says. */
#include "witness.h"
#include <cpuid.h>
#include <elf.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <ucontext.h>

enum {
    PROCESSES = 8,
    AREA = 16384,
    SPINS = 10 * 1000 * 1000,
    /* In an area of XSAVE (Intel SDM vol. 1, 13.4). */
    MXCSR = 24,
    XMM = 160,
    XMM_END = 416,
    HEADER = 512,
    EXTENDED = 576,
    INITIAL_MXCSR = 0x1f80,
    /* In the bytes of a signal frame's area that are software's. */
    MAGIC = 464,
    FEATURES = 472,
    NO_CALL = -1,
};

struct area {
    uint8_t bytes[AREA];
} __attribute__((aligned(64)));

/* The registers that this program was started with. It begins at witness_start. */
struct area at_start;

__asm__(".globl witness_start\n"
        "witness_start:\n"
        "mov %rdx, %r8\n"
        "mov $1, %eax\n"
        "cpuid\n"
        "bt $27, %ecx\n"
        "jnc 1f\n"
        "mov $0xe6, %eax\n"
        "xor %edx, %edx\n"
        "lea at_start(%rip), %rdi\n"
        "xsave64 (%rdi)\n"
        "1: mov %r8, %rdx\n"
        "jmp _start\n");

/* Components that the processor has, SSE and beyond, and where they are. */
static uint64_t components;
static struct {
    unsigned offset, size;
} places[8];

static void find_components(void)
{
    unsigned a, b, c, d;
    __cpuid(1, a, b, c, d);
    if (!(c & 1 << 27))
        bad("vectors", "the processor has no XSAVE");
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    components = low & 0xe6;
    for (int i = 2; i < 8; i++) {
        if (!(components & 1 << i))
            continue;
        __cpuid_count(0xd, i, a, b, c, d);
        places[i].size = a;
        places[i].offset = b;
    }
}

static void fill(struct area *area, uint64_t seed)
{
    memset(area, 0, sizeof *area);
    const uint32_t mxcsr = INITIAL_MXCSR;
    memcpy(area->bytes + MXCSR, &mxcsr, sizeof mxcsr);
    memcpy(area->bytes + HEADER, &components, sizeof components);
    for (unsigned at = XMM; at < XMM_END; at += 8) {
        uint64_t value = mix(seed, at, 0);
        memcpy(area->bytes + at, &value, 8);
    }
    for (int i = 2; i < 8; i++)
        for (unsigned at = 0; at < places[i].size; at += 8) {
            uint64_t value = mix(seed, at, i);
            memcpy(area->bytes + places[i].offset + at, &value, 8);
        }
}

static void compare(const char *what, const struct area *in, const uint8_t *out)
{
    if (memcmp(in->bytes + XMM, out + XMM, XMM_END - XMM))
        bad("vectors", "%s: an XMM register", what);
    for (int i = 2; i < 8; i++)
        if (memcmp(in->bytes + places[i].offset, out + places[i].offset, places[i].size))
            bad("vectors", "%s: component %d", what, i);
}

/* Loads all of `in`, spins, makes a system call unless it is NO_CALL, and stores into `out`. */
static long hold(const struct area *in, struct area *out, long call, long one, long two)
{
    uint64_t spins = SPINS;
    register long result __asm__("r12") = call;
    uint64_t low = components;
    memset(out, 0, sizeof *out);
    __asm__ volatile("xrstor64 (%[in])\n"
                     ".globl hold_begins\n"
                     "hold_begins:\n"
                     "1: dec %[spins]\n"
                     "jnz 1b\n"
                     "cmp $-1, %[result]\n"
                     "je 2f\n"
                     "mov %[result], %%rax\n"
                     "syscall\n"
                     "mov %%rax, %[result]\n"
                     "2:\n"
                     ".globl hold_ends\n"
                     "hold_ends:\n"
                     "mov %[mask], %%rax\n"
                     "xsave64 (%[out])\n"
                     : [spins] "+&r"(spins), [result] "+&r"(result), "+&a"(low), "+&D"(one), "+&S"(two)
                     : [in] "r"(in), [out] "r"(out), [mask] "r"(components), "d"(0)
                     : "memory", "cc", "rcx", "r11", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4",
                       "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
                       "xmm13", "xmm14", "xmm15");
    return result;
}

extern const char hold_begins[], hold_ends[];

/* What this process holds, and what the handler of its signals does. */
static struct area held, found, others;

static void use_registers(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    const ucontext_t *interrupted = context;
    uintptr_t rip = interrupted->uc_mcontext.gregs[REG_RIP];
    const uint8_t *frame = (const void *)interrupted->uc_mcontext.fpregs;
    uint32_t magic;
    uint64_t features;
    memcpy(&magic, frame + MAGIC, sizeof magic);
    memcpy(&features, frame + FEATURES, sizeof features);
    if ((uintptr_t)hold_begins <= rip && rip < (uintptr_t)hold_ends) {
        if (magic != 0x46505853 || (features & components) != components)
            bad("vectors", "a signal's frame has features %llx", (unsigned long long)features);
        compare("a signal's frame", &held, frame);
    }
    __asm__ volatile("xrstor64 (%0)" ::"r"(&others), "a"((uint32_t)components), "d"(0)
                     : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                       "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

static void wait_for(const char *what, pid_t child)
{
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            bad("vectors", "%s: %s", what, strerror(errno));
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        bad("vectors", "%s ended with %x", what, status);
}

static void start_program(void)
{
    pid_t child = fork();
    if (!child) {
        __asm__ volatile("xrstor64 (%0)" ::"r"(&others), "a"((uint32_t)components), "d"(0)
                         : "memory");
        execl("/proc/self/exe", "witness", "fresh", NULL);
        _exit(3);
    }
    wait_for("a new program", child);
}

static _Noreturn void process(unsigned number, volatile uint64_t *rounds)
{
    struct sigaction action = {.sa_sigaction = use_registers, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    /* Some are interrupted, and the others are only switched from and to. */
    struct itimerval often = {.it_interval.tv_usec = 30000, .it_value.tv_usec = 30000};
    if (number % 2)
        setitimer(ITIMER_REAL, &often, NULL);
    for (uint64_t round = 1;; round++) {
        fill(&others, mix(number, round, 1));
        fill(&held, mix(number, round, 2));
        long child = hold(&held, &found, round % 8 == 1 ? SYS_fork : NO_CALL, 0, 0);
        compare(round % 8 == 1 ? "a fork" : "a switch", &held, found.bytes);
        if (round % 8 == 1 && !child)
            _exit(0);
        if (round % 8 == 1)
            wait_for("a child", child);
        if (round % 8 == 2)
            start_program();
        *rounds = round;
    }
}

static volatile uint64_t *all_rounds;

static void *watch_processes(void *argument)
{
    static const char *const NAMES[PROCESSES] = {
        "vectors-0", "vectors-1", "vectors-2", "vectors-3",
        "vectors-4", "vectors-5", "vectors-6", "vectors-7",
    };
    (void)argument;
    for (;;) {
        for (int i = 0; i < PROCESSES; i++)
            progress(NAMES[i], all_rounds[i]);
        int status;
        pid_t ended = waitpid(-1, &status, WNOHANG);
        if (ended)
            bad("vectors", "process %d ended with %x", (int)ended, status);
        usleep(50 * 1000);
    }
    return NULL;
}

void vectors_part(void)
{
    find_components();
    size_t size = PROCESSES * sizeof *all_rounds;
    all_rounds = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (all_rounds == MAP_FAILED)
        bad("vectors", "shared memory: %s", strerror(errno));
    for (unsigned i = 0; i < PROCESSES; i++)
        if (!fork()) {
            cpu_set_t all;
            memset(&all, 0xff, sizeof all);
            sched_setaffinity(0, sizeof all, &all);
            process(i, &all_rounds[i]);
        }
    start(watch_processes, NULL);
}

/* fresh: the registers that a program starts with are initial, whatever was in them. */
int fresh_main(char **arguments)
{
    (void)arguments;
    find_components();
    struct area initial = {0};
    compare("a program's start", &initial, at_start.bytes);
    return 0;
}

/* traced: a tracer reads the registers of its child, and sets them. */
int traced_main(char **arguments)
{
    (void)arguments;
    find_components();
    fill(&held, 1);
    fill(&others, 2);
    pid_t child = fork();
    if (!child) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        hold(&held, &found, SYS_kill, getpid(), SIGSTOP);
        compare("a child whose registers were set", &others, found.bytes);
        _exit(0);
    }
    int status;
    if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status))
        bad("traced", "the child does not stop: %x", status);
    struct iovec area = {.iov_base = &found, .iov_len = sizeof found};
    if (ptrace(PTRACE_GETREGSET, child, NT_X86_XSTATE, &area))
        bad("traced", "its registers: %s", strerror(errno));
    compare("what a tracer reads", &held, found.bytes);
    memcpy(found.bytes + XMM, others.bytes + XMM, XMM_END - XMM);
    for (int i = 2; i < 8; i++)
        memcpy(found.bytes + places[i].offset, others.bytes + places[i].offset, places[i].size);
    if (ptrace(PTRACE_SETREGSET, child, NT_X86_XSTATE, &area))
        bad("traced", "setting its registers: %s", strerror(errno));
    ptrace(PTRACE_CONT, child, NULL, NULL);
    wait_for("the child", child);
    puts("done");
    return 0;
}
