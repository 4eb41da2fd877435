/* The part: numbered files in DIR, each synced, each with the machine's name in it;
 * only the newest are kept. In a clone it comes to rest after a few.
 * verify [DIR]: all of them are there and whole, but for the newest, which may be under way;
 * prints who wrote which, a line `NAME FIRST LAST` for each row of one name. */
#include "witness.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

static const char *directory = "/root/files";

enum { WORDS = 4 << 10, KEPT = 24, IN_CLONE = 8 };

static struct file {
    uint64_t number;
    char name[64];
    uint64_t words[WORDS];
} file;

static const char *path_of(uint64_t number)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%08llu", directory, (unsigned long long)number);
    return path;
}

static void write_file(uint64_t number)
{
    memset(file.name, 0, sizeof file.name);
    gethostname(file.name, sizeof file.name - 1);
    file.number = number;
    uint64_t hash = hash_of(file.name);
    for (uint64_t i = 0; i < WORDS; i++)
        file.words[i] = mix(hash, number, i);
    int fd = open(path_of(number), O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (fd < 0 || write(fd, &file, sizeof file) != sizeof file || fsync(fd))
        bad("files", "%s: %s", path_of(number), strerror(errno));
    close(fd);
}

static void *work(void *unused)
{
    uint64_t in_clone = 0, name = name_hash();
    for (uint64_t number = 1; in_clone < IN_CLONE; number++) {
        in_clone += name_hash() != name;
        write_file(number);
        if (number > KEPT && unlink(path_of(number - KEPT)))
            bad("files", "%s: %s", path_of(number - KEPT), strerror(errno));
        progress("files", number);
    }
    return unused;
}

void files_part(void)
{
    if (mkdir(directory, 0755))
        bad("files", "%s: %s", directory, strerror(errno));
    start(work, NULL);
}

static void check(uint64_t number)
{
    int fd = open(path_of(number), O_RDONLY);
    if (fd < 0 || read(fd, &file, sizeof file) != sizeof file)
        bad("verify", "%s cannot be read in full", path_of(number));
    close(fd);
    file.name[sizeof file.name - 1] = 0;
    uint64_t hash = hash_of(file.name);
    if (file.number != number)
        bad("verify", "%s is number %llu", path_of(number), (unsigned long long)file.number);
    for (uint64_t i = 0; i < WORDS; i++)
        if (file.words[i] != mix(hash, number, i))
            bad("verify", "%s of %s: word %llu", path_of(number), file.name,
                (unsigned long long)i);
}

int verify_main(char **arguments)
{
    if (*arguments)
        directory = *arguments;
    uint64_t first = UINT64_MAX, last = 0, count = 0;
    DIR *dir = opendir(directory);
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
    char writer[sizeof file.name] = "";
    uint64_t since = first;
    for (uint64_t number = first; number <= last; number++) {
        if (number < last)
            check(number);
        if (number == last || (number > first && strcmp(writer, file.name))) {
            printf("%s %llu %llu\n", writer, (unsigned long long)since,
                   (unsigned long long)number - 1);
            since = number;
        }
        memcpy(writer, file.name, sizeof writer);
    }
    return 0;
}
