/* A guest's program: echoes datagrams on port 8, and on port 7 connects to whom its caller
 * tells it, as four bytes of address (0.0.0.0: the caller) and two of port, and answers with
 * one byte: 0, or the error's number. Goes on in the background when it listens. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

static int bound(int kind, int port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    int on = 1, fd = socket(AF_INET, kind, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    return bind(fd, (void *)&at, sizeof at) ? -1 : fd;
}

static void echo(int fd) {
    char text[2000];
    struct sockaddr_in from;
    for (;;) {
        socklen_t len = sizeof from;
        ssize_t got = recvfrom(fd, text, sizeof text, 0, (void *)&from, &len);
        if (got >= 0)
            sendto(fd, text, got, 0, (void *)&from, len);
    }
}

static char try_to_connect(int caller, const struct sockaddr_in *from) {
    struct sockaddr_in to = {.sin_family = AF_INET};
    unsigned char asked[6];
    if (recv(caller, asked, sizeof asked, MSG_WAITALL) != sizeof asked)
        return -1;
    __builtin_memcpy(&to.sin_addr, asked, 4);
    __builtin_memcpy(&to.sin_port, asked + 4, 2);
    if (to.sin_addr.s_addr == 0)
        to.sin_addr = from->sin_addr;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    char result = connect(fd, (void *)&to, sizeof to) ? errno : 0;
    close(fd);
    return result;
}

int main(void) {
    int streams = bound(SOCK_STREAM, 7), datagrams = bound(SOCK_DGRAM, 8);
    if (streams < 0 || datagrams < 0 || listen(streams, 8))
        return 1;
    if (daemon(0, 0))
        return 1;
    if (fork() == 0)
        echo(datagrams);
    for (;;) {
        struct sockaddr_in from;
        socklen_t len = sizeof from;
        int caller = accept(streams, (void *)&from, &len);
        if (caller < 0)
            continue;
        char result = try_to_connect(caller, &from);
        send(caller, &result, 1, MSG_NOSIGNAL);
        close(caller);
    }
}
