/* write DIR: numbered files, each synced, each with the machine's name in it.
 * verify DIR: all of them are there and whole, but for the last; prints who wrote
 * which, a line `NAME FIRST LAST` for each row of one name. */
#include "witness.h"
#include <dirent.h>
#include <fcntl.h>

enum { WORDS = 16 << 10, KEPT = 48 };

struct file {
    uint64_t number;
    char name[64];
    uint64_t words[WORDS];
};

static struct file file;

static void path_of(char *path, size_t size, const char *dir, uint64_t number)
{
    snprintf(path, size, "%s/%08llu", dir, (unsigned long long)number);
}

int write_main(char **arguments)
{
    char path[256];
    for (uint64_t number = 1;; number++) {
        memset(file.name, 0, sizeof file.name);
        gethostname(file.name, sizeof file.name - 1);
        file.number = number;
        uint64_t name = name_hash();
        for (uint64_t i = 0; i < WORDS; i++)
            file.words[i] = mix(name, number, i);
        path_of(path, sizeof path, arguments[0], number);
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
        if (fd < 0 || write(fd, &file, sizeof file) != sizeof file || fsync(fd))
            bad("write", "%s: %s", path, strerror(errno));
        close(fd);
        progress("write", number);
        path_of(path, sizeof path, arguments[0], number - KEPT);
        if (number > KEPT && unlink(path))
            bad("write", "%s: %s", path, strerror(errno));
    }
}

static void check(const char *path, uint64_t number)
{
    if (file.number != number)
        bad("verify", "%s is number %llu", path, (unsigned long long)file.number);
    uint64_t name = 0;
    for (const char *c = file.name; *c; c++)
        name = mix(name, (unsigned char)*c, 0);
    for (uint64_t i = 0; i < WORDS; i++)
        if (file.words[i] != mix(name, number, i))
            bad("verify", "%s: word %llu", path, (unsigned long long)i);
}

int verify_main(char **arguments)
{
    uint64_t first = UINT64_MAX, last = 0, count = 0;
    DIR *dir = opendir(arguments[0]);
    struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        uint64_t number = strtoull(entry->d_name, NULL, 10);
        if (!number)
            continue;
        first = number < first ? number : first;
        last = number > last ? number : last;
        count++;
    }
    if (!count || count != last - first + 1)
        bad("verify", "%llu files from %llu to %llu", (unsigned long long)count,
            (unsigned long long)first, (unsigned long long)last);
    char path[256], owner[64] = "";
    uint64_t since = first;
    for (uint64_t number = first; number < last; number++) {
        path_of(path, sizeof path, arguments[0], number);
        int fd = open(path, O_RDONLY);
        if (fd < 0 || read(fd, &file, sizeof file) != sizeof file)
            bad("verify", "%s cannot be read in full", path);
        close(fd);
        check(path, number);
        if (strcmp(owner, file.name)) {
            if (*owner)
                printf("%s %llu %llu\n", owner, (unsigned long long)since,
                       (unsigned long long)number - 1);
            strcpy(owner, file.name);
            since = number;
        }
    }
    printf("%s %llu %llu\n", owner, (unsigned long long)since, (unsigned long long)last - 1);
    return 0;
}
