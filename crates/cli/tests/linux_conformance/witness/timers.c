/* timers SECONDS: four ways to wait, all under way at once, one of them for a time of day.
 * Each must end once, and not too early. Prints `set`, then a line for each end. */
#include "witness.h"
#include <pthread.h>
#include <signal.h>
#include <sys/timerfd.h>

static struct timespec begun;
static int seconds;

static void say(const char *what)
{
    puts(what);
    fflush(stdout);
}

static void woke(const char *how)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t waited = (now.tv_sec - begun.tv_sec) * 1000000000LL + now.tv_nsec - begun.tv_nsec;
    if (waited < seconds * 1000000000LL)
        bad("timers", "%s came after %lld ns", how, (long long)waited);
    say(how);
}

static void *sleeper(void *unused)
{
    struct timespec time = {.tv_sec = seconds};
    if (nanosleep(&time, NULL))
        bad("timers", "nanosleep: %s", strerror(errno));
    woke("nanosleep");
    return unused;
}

static void *reader(void *argument)
{
    int fd = (intptr_t)argument;
    for (;;) {
        uint64_t expirations;
        if (read(fd, &expirations, 8) != 8 || expirations != 1)
            bad("timers", "timerfd: %llu expirations", (unsigned long long)expirations);
        woke("timerfd");
    }
    return NULL;
}

static void *riser(void *unused)
{
    struct timespec time, now;
    clock_gettime(CLOCK_REALTIME, &time);
    time.tv_sec += seconds;
    if (clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &time, NULL))
        bad("timers", "clock_nanosleep: %s", strerror(errno));
    clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec < time.tv_sec || (now.tv_sec == time.tv_sec && now.tv_nsec < time.tv_nsec))
        bad("timers", "it is not the time of day yet");
    say("time of day");
    return unused;
}

int timers_main(char **arguments)
{
    seconds = atoi(arguments[0]);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    clock_gettime(CLOCK_MONOTONIC, &begun);

    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    struct itimerspec once = {.it_value = {.tv_sec = seconds}};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    timer_t timer;
    if (fd < 0 || timerfd_settime(fd, 0, &once, NULL) ||
        timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &once, NULL))
        bad("timers", "cannot be set: %s", strerror(errno));
    start(reader, (void *)(intptr_t)fd);
    start(sleeper, NULL);
    start(riser, NULL);
    say("set");

    for (;;) {
        int signal;
        sigwait(&set, &signal);
        woke("signal");
    }
}
