/* A program inside the guest that watches, from before a fork to after it, whether
 * everything stays as it should be. Its parts run for ever, count their rounds in
 * /tmp/witness/<part>, and end with `BAD: ...` in that file at the first thing that
 * is wrong. */
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

/* Tells how many rounds a part has done. */
void progress(const char *part, uint64_t rounds);

/* Tells what is wrong, and ends the program. */
_Noreturn void bad(const char *part, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Keeps the calling thread on one CPU. */
void pin(int cpu);

/* Starts a thread. */
void start(void *(*work)(void *), void *argument);

/* A number that looks random and depends on all of `a`, `b`, `c`. */
uint64_t mix(uint64_t a, uint64_t b, uint64_t c);

/* Of the machine's name, which a clone gets anew. */
uint64_t name_hash(void);

int memory_main(char **arguments);
int registers_main(char **arguments);
int clock_main(char **arguments);
int timers_main(char **arguments);
int write_main(char **arguments);
int verify_main(char **arguments);
int random_main(char **arguments);
int notice_main(char **arguments);
int hold_agent_main(char **arguments);
int crash_agent_main(char **arguments);

#endif
