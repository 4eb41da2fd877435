/* Random bytes from each of two CPUs, whose generators are separate. */
#include "witness.h"
#include <sys/random.h>

int random_main(char **arguments)
{
    (void)arguments;
    for (int cpu = 0; cpu < 2; cpu++) {
        unsigned char bytes[16];
        pin(cpu);
        if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes)
            bad("random", "getrandom: %s", strerror(errno));
        for (size_t i = 0; i < sizeof bytes; i++)
            printf("%02x", bytes[i]);
        puts("");
    }
    return 0;
}
