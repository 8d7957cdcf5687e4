/* Opens the UDP port 4500 in both families for ESP (RFC 3948): the kernel decapsulates only where a socket has asked for it. */
#include <linux/udp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static int open_port(int family, const struct sockaddr *address, socklen_t length)
{
    int kind = UDP_ENCAP_ESPINUDP, on = 1, port = socket(family, SOCK_DGRAM, 0);
    if (family == AF_INET6 && setsockopt(port, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) != 0)
        return -1;
    if (setsockopt(port, IPPROTO_UDP, UDP_ENCAP, &kind, sizeof kind) != 0)
        return -1;
    return bind(port, address, length);
}

int main(void)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(4500)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(4500)};
    if (open_port(AF_INET, (struct sockaddr *)&v4, sizeof v4) != 0 ||
        open_port(AF_INET6, (struct sockaddr *)&v6, sizeof v6) != 0) {
        perror("espinudp");
        return 1;
    }
    if (daemon(0, 0) != 0)
        return 1;
    for (;;)
        pause();
}
