/* What all parts use. */
#include "witness.h"
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>

void bad(const char *part, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    flockfile(stdout);
    printf("BAD %s: ", part);
    vprintf(format, arguments);
    puts("");
    fflush(stdout);
    _exit(1);
}

void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        bad("witness", "CPU %d: %s", cpu, strerror(errno));
}

void start(void *(*work)(void *), void *argument)
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, work, argument);
    if (error)
        bad("witness", "a thread: %s", strerror(error));
}

void start_on_both_cpus(void *(*work)(void *))
{
    start(work, (void *)0);
    start(work, (void *)1);
}

uint64_t mix(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t x = a * 0x9e3779b97f4a7c15 ^ b * 0xc2b2ae3d27d4eb4f ^ c * 0x165667b19e3779f9;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

uint64_t hash_of(const char *name)
{
    uint64_t hash = 0;
    for (; *name; name++)
        hash = mix(hash, (unsigned char)*name, 0);
    return hash;
}

uint64_t name_hash(void)
{
    char name[65] = "";
    gethostname(name, sizeof name - 1);
    return hash_of(name);
}
