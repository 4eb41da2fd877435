#!/bin/sh
# Prints what every thread of the emulated machine is doing, for a developer who has to find
# out why a test hangs: state, system call, and where in the kernel it is.
for process in /proc/[0-9]*; do
    program=$(tr '\0' ' ' 2> /dev/null < "$process/cmdline")
    # The kernel's own threads have none.
    [ -n "$program" ] || continue
    echo "process ${process#/proc/}: $program"
    for thread in "$process"/task/*; do
        {
            read -r name < "$thread/comm"
            read -r call < "$thread/syscall"
            state=$(sed -n 's/^State:.//p' "$thread/status")
            echo "  $name, $state, system call $call"
            sed 's/^/    /' "$thread/stack"
        } 2> /dev/null
    done
done
