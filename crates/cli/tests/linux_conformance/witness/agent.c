/* hold-agent FILE: stops PID 1, makes the file, and continues PID 1 once the file is gone,
 * since a stopped agent takes no requests.
 * crash-agent: has PID 1 die of a fault, of which the kernel panics. */
#include "witness.h"
#include <fcntl.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

static void attach(void)
{
    if (ptrace(PTRACE_ATTACH, 1, NULL, NULL) || waitpid(1, NULL, __WALL) != 1)
        bad("agent", "PID 1 cannot be traced: %s", strerror(errno));
}

int hold_agent_main(char **arguments)
{
    attach();
    int file = creat(arguments[0], 0644);
    if (file < 0)
        bad("agent", "%s: %s", arguments[0], strerror(errno));
    close(file);
    while (!access(arguments[0], F_OK))
        usleep(50 * 1000);
    return ptrace(PTRACE_DETACH, 1, NULL, NULL) ? 1 : 0;
}

int crash_agent_main(char **arguments)
{
    (void)arguments;
    struct user_regs_struct registers;
    attach();
    if (ptrace(PTRACE_GETREGS, 1, NULL, &registers))
        bad("agent", "its registers: %s", strerror(errno));
    /* Not in a system call that would be restarted. */
    registers.orig_rax = -1;
    registers.rip = 0;
    if (ptrace(PTRACE_SETREGS, 1, NULL, &registers) || ptrace(PTRACE_DETACH, 1, NULL, NULL))
        bad("agent", "its registers: %s", strerror(errno));
    return 0;
}
