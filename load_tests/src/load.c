// A load generator for JSON and server-sent event streams on loopback that costs little beside what it measures.
//
// usage: load -p PORT -b BODY_FILE [-u PATH] [-k API_KEY] [-H "NAME: VALUE"]... [-c CONNECTIONS] [-d SECONDS]
//             [-w WARM_UP_SECONDS] [-r RATE] [-x SHARE] [-e SECONDS]
//
// One thread, epoll, HTTP/1.1 keep-alive. Without a rate the loop is closed: every connection sends its next request
// when it has its answer. With one it is open: requests start at RATE a second, and latency counts from the moment a
// request was due, so that a slow answer cannot hide the wait of those behind it (coordinated omission).
// Eight zeros in the body are replaced by a number that counts up from a random one, so that no two questions are the
// same.
// -x: so large a share of the requests is left within 100 ms, as an impatient client does; they are `left`.
// -e: how long answers in flight at the end are waited for (10).
// At the end nothing more is sent, and what is in flight is awaited: `sent` is exactly what the server got.
// Prints one JSON object; latencies are microseconds of the answers that ended after the warm-up.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_BYTES = 16384, READ_BYTES = 1 << 18 };
static double drain_s = 10;  // how long answers in flight at the end are waited for

// Where in an answer a connection is.
typedef enum { HEAD, COUNTED_BODY, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER } Part;

typedef struct {
    int fd;
    bool is_busy, must_close;
    Part part;
    int status;
    char head[HEAD_BYTES];
    int head_size;
    char size_line[32];  // of a chunk
    int size_line_length, trailer_length;
    long left;           // bytes of the body or chunk still to come
    int event_letters;   // letters of "data:" seen since the line began; -1: this line is none or is counted
    double due, first_byte_at, event_at;
    double leave_at;  // 0: stays
} Connection;

typedef struct {
    double *values;
    size_t count, room;
} Sample;

typedef struct {
    int port, connections;
    const char *path, *key, *body_file;
    char headers[4096];
    double seconds, warm_up_s, rate, left_share;
} Options;

static int epoll_fd;
static Options options = {
    .path = "/v1/chat/completions", .key = "none", .connections = 1, .seconds = 4, .warm_up_s = 1};
static char *request;
static size_t request_size;
static char *number;  // where the request holds its number; NULL: nowhere
static bool is_measuring;
static Sample latency, first_byte, gap;
static unsigned long long first_number, sent, answered, left_early, errors, not_ok, events, measured_events;
static char first_error[512];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

// --- samples ---------------------------------------------------------------------------------------------------------

static void add(Sample *sample, double seconds) {
    if (sample->count == sample->room) {
        sample->room = sample->room ? sample->room * 2 : 1 << 16;
        sample->values = realloc(sample->values, sample->room * sizeof *sample->values);
        if (!sample->values) die("realloc");
    }
    sample->values[sample->count++] = seconds;
}

static int compare(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double percentile_us(const Sample *sorted, double share) {
    return sorted->count ? sorted->values[(size_t)(share * (double)(sorted->count - 1))] * 1e6 : 0;
}

static void print_sample(const char *name, Sample *sample) {
    qsort(sample->values, sample->count, sizeof *sample->values, compare);
    printf(", \"%s\": {\"p50\": %.1f, \"p95\": %.1f, \"p99\": %.1f, \"max\": %.1f}", name, percentile_us(sample, .5),
           percentile_us(sample, .95), percentile_us(sample, .99), percentile_us(sample, 1));
}

// --- sending ---------------------------------------------------------------------------------------------------------

static void dial(Connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)options.port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event);
}

static void redial(Connection *c) {
    close(c->fd);
    c->is_busy = false;
    dial(c);
}

static void fail(Connection *c, const char *why) {
    errors++;
    if (!first_error[0]) snprintf(first_error, sizeof first_error, "%s", why);
    redial(c);
}

static void start(Connection *c, double due) {
    c->is_busy = true;
    c->must_close = false;
    c->part = HEAD;
    c->head_size = c->size_line_length = c->trailer_length = c->event_letters = 0;
    c->first_byte_at = c->event_at = 0;
    c->leave_at = options.left_share > 0 && drand48() < options.left_share ? now() + drand48() * .1 : 0;
    c->due = due;
    sent++;
    if (number) {
        char digits[9];
        snprintf(digits, sizeof digits, "%08llu", (first_number + sent) % 100000000);
        memcpy(number, digits, 8);
    }
    for (size_t done = 0; done < request_size;) {
        ssize_t size = send(c->fd, request + done, request_size - done, MSG_NOSIGNAL);
        if (size < 0 && errno == EINTR) continue;
        if (size < 0) {
            fail(c, "the server closed the connection before it had the request");
            return;
        }
        done += (size_t)size;
    }
}

static void make_request(void) {
    FILE *file = fopen(options.body_file, "rb");
    if (!file) die(options.body_file);
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file);
    rewind(file);
    request = malloc(size + 2 * sizeof options.headers);
    if (!request) die("malloc");
    int head = snprintf(request, 2 * sizeof options.headers,
                        "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                        "Accept: application/json\r\nAuthorization: Bearer %s\r\n%sContent-Length: %zu\r\n\r\n",
                        options.path, options.port, options.key, options.headers, size);
    if (fread(request + head, 1, size, file) != size) die(options.body_file);
    fclose(file);
    request_size = (size_t)head + size;
    number = memmem(request + head, size, "00000000", 8);
    first_number = (unsigned long long)(now() * 1e6) * 2654435761ULL;
}

// --- receiving -------------------------------------------------------------------------------------------------------

// Counts lines that begin with "data:".
static void count_events(Connection *c, const char *bytes, long size) {
    static const char mark[] = "data:";
    for (long i = 0; i < size;) {
        if (c->event_letters < 0) {
            const char *line_end = memchr(bytes + i, '\n', (size_t)(size - i));
            if (!line_end) return;
            i = line_end - bytes + 1;
            c->event_letters = 0;
        } else if (bytes[i] == '\n') {
            c->event_letters = 0;
            i++;
        } else if (bytes[i] == mark[c->event_letters]) {
            i++;
            if (++c->event_letters == 5) {
                events++;
                c->event_letters = -1;
            }
        } else {
            c->event_letters = -1;
        }
    }
}

static void take_body(Connection *c, const char *bytes, long size, double at) {
    if (size && !c->first_byte_at) c->first_byte_at = at;
    unsigned long long before = events;
    count_events(c, bytes, size);
    if (events == before) return;
    if (is_measuring) measured_events += events - before;
    if (is_measuring && c->event_at) add(&gap, at - c->event_at);
    c->event_at = at;
}

static void finish(Connection *c, double at) {
    c->is_busy = false;
    answered++;
    if (c->status != 200) {
        not_ok++;
        if (!first_error[0]) snprintf(first_error, sizeof first_error, "%.500s", c->head);
    }
    if (is_measuring) {
        add(&latency, at - c->due);
        add(&first_byte, (c->first_byte_at ? c->first_byte_at : at) - c->due);
    }
    if (c->must_close) redial(c);
}

// Reads the head's lines; false when it does not say how long the body is.
static bool read_head(Connection *c, const char *end) {
    bool is_framed = false;
    c->status = atoi(c->head + 9);
    for (const char *line = c->head; line < end;) {
        const char *next = memmem(line, (size_t)(end + 2 - line), "\r\n", 2);
        if (!strncasecmp(line, "content-length:", 15)) {
            c->part = COUNTED_BODY;
            c->left = atol(line + 15);
            is_framed = true;
        } else if (!strncasecmp(line, "transfer-encoding:", 18)) {
            c->part = CHUNK_SIZE;
            is_framed = true;
        } else if (!strncasecmp(line, "connection: close", 17)) {
            c->must_close = true;
        }
        line = next ? next + 2 : end;
    }
    return is_framed;
}

// Takes what was read; returns 1 when the answer is whole, 0 when more is to come, -1 when it makes no sense.
static int take(Connection *c, const char *bytes, long size, double at) {
    if (c->part == HEAD) {
        int room = HEAD_BYTES - 1 - c->head_size, part = size < room ? (int)size : room, before = c->head_size;
        memcpy(c->head + before, bytes, (size_t)part);
        c->head_size += part;
        c->head[c->head_size] = 0;
        char *end = memmem(c->head, (size_t)c->head_size, "\r\n\r\n", 4);
        if (!end) return size > room ? -1 : 0;
        if (!read_head(c, end)) return -1;
        long taken = end + 4 - c->head - before;
        bytes += taken;
        size -= taken;
    }
    if (c->part == COUNTED_BODY) {
        take_body(c, bytes, size, at);
        c->left -= size;
        return c->left <= 0;
    }
    while (size > 0) {
        if (c->part == CHUNK_DATA) {
            long part = size < c->left ? size : c->left;
            take_body(c, bytes, part, at);
            bytes += part;
            size -= part;
            c->left -= part;
            if (!c->left) c->part = CHUNK_END;
            continue;
        }
        char letter = *bytes++;
        size--;
        if (letter == '\r') continue;
        if (c->part == CHUNK_SIZE && letter != '\n') {
            if (c->size_line_length < (int)sizeof c->size_line - 1) c->size_line[c->size_line_length++] = letter;
        } else if (c->part == CHUNK_SIZE) {
            c->size_line[c->size_line_length] = 0;
            c->left = strtol(c->size_line, NULL, 16);
            c->size_line_length = 0;
            c->part = c->left ? CHUNK_DATA : TRAILER;
        } else if (c->part == CHUNK_END) {
            c->part = CHUNK_SIZE;
        } else if (letter != '\n') {
            c->trailer_length++;
        } else if (c->trailer_length == 0) {
            return 1;
        } else {
            c->trailer_length = 0;
        }
    }
    return 0;
}

static void receive(Connection *c, char *buffer) {
    ssize_t size = recv(c->fd, buffer, READ_BYTES, MSG_DONTWAIT);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) {
        if (c->is_busy) {
            fail(c, "the server closed the connection before the answer was whole");
        } else {
            redial(c);
        }
        return;
    }
    if (!c->is_busy) return;
    double at = now();
    int outcome = take(c, buffer, size, at);
    if (outcome < 0) fail(c, "the answer is not HTTP/1.1 with a length or chunks");
    if (outcome > 0) finish(c, at);
}

// --- the run ---------------------------------------------------------------------------------------------------------

static Connection *idle_connection(Connection *connections, int *turn) {
    for (int i = 0; i < options.connections; i++) {
        Connection *c = &connections[(*turn + i) % options.connections];
        if (!c->is_busy) {
            *turn = (*turn + i + 1) % options.connections;
            return c;
        }
    }
    return NULL;
}

static void leave(Connection *connections, double at) {
    for (int i = 0; i < options.connections; i++) {
        if (!connections[i].is_busy || !connections[i].leave_at || connections[i].leave_at > at) continue;
        left_early++;
        redial(&connections[i]);
    }
}

static bool is_any_busy(const Connection *connections) {
    for (int i = 0; i < options.connections; i++)
        if (connections[i].is_busy) return true;
    return false;
}

// Sends what is due and returns how long to wait for answers, in seconds.
static double send_due(Connection *connections, int *turn, double *next_due, double at) {
    if (options.rate <= 0) {
        for (int i = 0; i < options.connections; i++)
            if (!connections[i].is_busy) start(&connections[i], at);
        return .05;
    }
    while (*next_due <= at) {
        Connection *c = idle_connection(connections, turn);
        if (!c) return .05;
        start(c, *next_due);
        *next_due += 1 / options.rate;
    }
    return *next_due - at < .05 ? *next_due - at : .05;
}

static double run(Connection *connections) {
    char *buffer = malloc(READ_BYTES);
    struct epoll_event ready[256];
    double began = now(), measured_from = began + options.warm_up_s, end = measured_from + options.seconds;
    double next_due = began, measured_s = options.seconds;
    int turn = 0;
    if (!buffer) die("malloc");
    for (;;) {
        double at = now(), wait_s = .05;
        if (at >= end && is_measuring) {
            is_measuring = false;
            measured_s = at - measured_from;
        }
        if (at >= end && (!is_any_busy(connections) || at >= end + drain_s)) break;
        if (at >= measured_from && at < end) is_measuring = true;
        if (at < end) wait_s = send_due(connections, &turn, &next_due, at);
        if (options.left_share > 0) leave(connections, at);
        struct timespec wait = {.tv_nsec = (long)(wait_s * 1e9)};
        int count = epoll_pwait2(epoll_fd, ready, 256, &wait, NULL);
        for (int i = 0; i < count; i++) receive(ready[i].data.ptr, buffer);
    }
    free(buffer);
    return measured_s;
}

static void print_text(const char *name, const char *text) {
    printf(", \"%s\": \"", name);
    for (; *text; text++) {
        if (*text == '\n') {
            printf("\\n");
        } else if (*text == '"' || *text == '\\') {
            printf("\\%c", *text);
        } else if ((unsigned char)*text >= 32) {
            putchar(*text);
        }
    }
    putchar('"');
}

static bool read_options(int argc, char **argv) {
    for (int option; (option = getopt(argc, argv, "p:u:b:k:H:c:d:w:r:x:e:")) > 0;) {
        switch (option) {
            case 'p': options.port = atoi(optarg); break;
            case 'u': options.path = optarg; break;
            case 'b': options.body_file = optarg; break;
            case 'k': options.key = optarg; break;
            case 'H':
                if (strlen(options.headers) + strlen(optarg) + 3 > sizeof options.headers) return false;
                strcat(strcat(options.headers, optarg), "\r\n");
                break;
            case 'e': drain_s = atof(optarg); break;
            case 'x': options.left_share = atof(optarg); break;
            case 'c': options.connections = atoi(optarg); break;
            case 'd': options.seconds = atof(optarg); break;
            case 'w': options.warm_up_s = atof(optarg); break;
            case 'r': options.rate = atof(optarg); break;
            default: return false;
        }
    }
    return options.port > 0 && options.body_file && options.connections > 0 && strlen(options.key) < 1024 &&
           strlen(options.path) < 1024;
}

int main(int argc, char **argv) {
    if (!read_options(argc, argv)) {
        fprintf(stderr, "usage: load -p PORT -b BODY_FILE [-u PATH] [-k API_KEY] [-H \"NAME: VALUE\"]... "
                        "[-c CONNECTIONS] [-d SECONDS] [-w WARM_UP_SECONDS] [-r RATE] [-x SHARE] [-e SECONDS]\n");
        return 2;
    }
    make_request();
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    Connection *connections = calloc((size_t)options.connections, sizeof *connections);
    if (!connections) die("calloc");
    for (int i = 0; i < options.connections; i++) dial(&connections[i]);
    double measured_s = run(connections);
    if (is_any_busy(connections)) {
        errors++;
        if (!first_error[0]) snprintf(first_error, sizeof first_error, "an answer did not end in %.0f s", drain_s);
    }
    printf("{\"requests_per_s\": %.1f, \"sent\": %llu, \"answered\": %llu, \"left\": %llu, \"errors\": %llu, \"not_ok\": %llu, "
           "\"events\": %llu, \"events_per_s\": %.1f",
           (double)latency.count / measured_s, sent, answered, left_early, errors, not_ok, events,
           (double)measured_events / measured_s);
    print_sample("latency_us", &latency);
    print_sample("first_byte_us", &first_byte);
    print_sample("gap_us", &gap);
    print_text("first_error", first_error);
    printf("}\n");
    return 0;
}
