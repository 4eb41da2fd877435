/* A program inside the guest that watches, from before a fork to after it, whether
 * everything stays as it should be. Each part runs for ever and counts its rounds,
 * until the first thing that is wrong. */
#ifndef WITNESS_H
#define WITNESS_H

#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Notes how many rounds a part has done; `watch` prints it. `part` is not copied. */
void progress(const char *part, uint64_t rounds);

/* Prints a line `BAD <part>: ...` that tells what is wrong, and ends the program. */
_Noreturn void bad(const char *part, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Keeps the calling thread on one CPU. */
void pin(int cpu);

/* Starts a thread. */
void start(void *(*work)(void *), void *argument);

/* Starts one on each of the two CPUs, which it is given as a number. */
void start_on_both_cpus(void *(*work)(void *));

/* A number that looks random and depends on all of `a`, `b`, `c`. */
uint64_t mix(uint64_t a, uint64_t b, uint64_t c);

/* Of a machine's name. */
uint64_t hash_of(const char *name);

/* Of this machine's name, which a clone gets anew. */
uint64_t name_hash(void);

/* Parts that `watch` starts; they start their threads and return. */
void memory_part(void);
void registers_part(void);
void interrupts_part(void);
void clock_part(void);
void files_part(void);
void vectors_part(void);

/* What can be called by itself. */
int time_main(char **arguments);
int timers_main(char **arguments);
int unmap_main(char **arguments);
int fresh_main(char **arguments);
int traced_main(char **arguments);
int verify_main(char **arguments);
int random_main(char **arguments);
int notice_main(char **arguments);
int hold_agent_main(char **arguments);
int crash_agent_main(char **arguments);

#endif
