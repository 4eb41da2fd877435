#include "witness.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/stat.h>

static const struct {
    const char *name;
    int (*main)(char **arguments);
} PARTS[] = {
    {"memory", memory_main},         {"registers", registers_main},
    {"clock", clock_main},           {"timers", timers_main},
    {"write", write_main},           {"verify", verify_main},
    {"random", random_main},         {"notice", notice_main},
    {"hold-agent", hold_agent_main}, {"crash-agent", crash_agent_main},
};

/* A line of always the same length, so that it is replaced at once. */
static void tell(const char *part, const char *line)
{
    char path[64], text[128];
    snprintf(path, sizeof path, "/tmp/witness/%s", part);
    snprintf(text, sizeof text, "%-126s\n", line);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0 || pwrite(fd, text, 127, 0) != 127)
        abort();
    close(fd);
}

void progress(const char *part, uint64_t rounds)
{
    char line[32];
    snprintf(line, sizeof line, "%llu", (unsigned long long)rounds);
    tell(part, line);
}

void bad(const char *part, const char *format, ...)
{
    char line[120];
    int len = snprintf(line, sizeof line, "BAD: ");
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line + len, sizeof line - len, format, arguments);
    va_end(arguments);
    tell(part, line);
    fprintf(stderr, "%s: %s\n", part, line);
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

uint64_t mix(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t x = a * 0x9e3779b97f4a7c15 ^ b * 0xc2b2ae3d27d4eb4f ^ c * 0x165667b19e3779f9;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

uint64_t name_hash(void)
{
    char name[65] = "";
    gethostname(name, sizeof name - 1);
    uint64_t hash = 0;
    for (const char *c = name; *c; c++)
        hash = mix(hash, (unsigned char)*c, 0);
    return hash;
}

int main(int count, char **arguments)
{
    mkdir("/tmp/witness", 0755);
    for (size_t i = 0; count > 1 && i < sizeof PARTS / sizeof *PARTS; i++)
        if (!strcmp(arguments[1], PARTS[i].name))
            return PARTS[i].main(arguments + 2);
    fprintf(stderr, "usage: witness PART [ARGUMENT...]\n");
    return 2;
}
