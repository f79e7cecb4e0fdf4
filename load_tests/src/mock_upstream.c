// A mock OpenAI-compatible upstream that costs next to nothing, so that what is measured is the gateway.
//
// usage: mock_upstream PORT
//
// One thread, epoll, HTTP/1.1 keep-alive, loopback only.
//   POST anything   a chat completion: JSON, or a server-sent event stream if the body has "stream":true; each token
//                   with its log-probabilities if the body has "logprobs":true.
//                   As vLLM does, a stream carries usage in a last chunk of its own when the body has "include_usage".
//                   A message that ends in "mock:lat=US,tok=N,itv=US" sets the time to the first byte, the number of
//                   tokens and the time between two (microseconds; default 0, 64, 0). Every token is one write.
//   GET /stats      what was asked so far: {"requests": N}
//   GET anything    {"status": "ok"}
// SIGTERM and SIGINT end it.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 1 << 16, INPUT_BYTES = 1 << 12, DEFAULT_TOKENS = 64, JSON_TOKENS = 32, PROMPT_TOKENS = 38 };

// What a connection is doing: reading a request, waiting before its first byte, or between two tokens.
typedef enum { READING, WAITING, STREAMING } State;

typedef struct {
    int fd;
    State state;
    char *input;
    size_t input_size, input_room;
    char *output;  // what the socket did not take yet
    size_t output_size, output_sent, output_room;
    bool wants_stream, wants_usage, wants_logprobs, has_timer;
    long tokens, tokens_sent;
    int64_t latency_us, interval_us, due_us;
} Connection;

typedef struct {
    char bytes[16384];
    size_t size;
} Text;

static Connection *connections[MAX_CONNECTIONS];  // by file descriptor
static int epoll_fd, highest_fd, timers;
static unsigned long long requests;
static volatile sig_atomic_t stopped;
static Text json_answers[2], stream_head, token_chunks[2], finish_chunk, stream_end;  // [1]: with log-probabilities

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void *resize(void *block, size_t size) {
    void *resized = realloc(block, size);
    if (!resized) die("realloc");
    return resized;
}

// --- answers ---------------------------------------------------------------------------------------------------------

static size_t add_chunk(char *to, size_t room, const char *json) {
    char event[1024];
    int size = snprintf(event, sizeof event, "data: %s\n\n", json);
    return (size_t)snprintf(to, room, "%x\r\n%s\r\n", size, event);
}

static void prepare_chunk(Text *chunk, const char *choices, const char *rest) {
    char json[900];
    snprintf(json, sizeof json,
             "{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion.chunk\",\"created\":1763689200,"
             "\"model\":\"mock-model\",\"choices\":[%s]%s}",
             choices, rest);
    chunk->size = add_chunk(chunk->bytes, sizeof chunk->bytes, json);
}

static const char TOKEN_LOGPROB[] =
    "{\"token\":\" token\",\"logprob\":-0.02,\"bytes\":null,\"top_logprobs\":["
    "{\"token\":\" token\",\"logprob\":-0.02,\"bytes\":null},{\"token\":\" word\",\"logprob\":-4.1,\"bytes\":null}]}";

static void prepare_json(Text *answer, const char *logprobs) {
    char body[sizeof answer->bytes - 256];
    int size = snprintf(
        body, sizeof body,
        "{\"id\":\"chatcmpl-mock\",\"object\":\"chat.completion\",\"created\":1763689200,\"model\":\"mock-model\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"The capital of France is Paris. "
        "It lies on the Seine in the north of the country and has been its political, economic and cultural centre "
        "for many centuries.\",\"refusal\":null},\"logprobs\":%s,\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,"
        "\"prompt_tokens_details\":{\"cached_tokens\":0}}}",
        logprobs, PROMPT_TOKENS, JSON_TOKENS, PROMPT_TOKENS + JSON_TOKENS);
    answer->size = (size_t)snprintf(answer->bytes, sizeof answer->bytes,
                                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                                    "Content-Length: %d\r\n\r\n%s",
                                    size, body);
}

static void prepare_answers(void) {
    prepare_json(&json_answers[0], "null");
    char logprobs[8192] = "{\"content\":[";
    for (int i = 0; i < JSON_TOKENS; i++) {
        if (i) strcat(logprobs, ",");
        strcat(logprobs, TOKEN_LOGPROB);
    }
    strcat(logprobs, "]}");
    prepare_json(&json_answers[1], logprobs);
    Text role;
    prepare_chunk(&role,
                  "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                  "\"logprobs\":null,\"finish_reason\":null}",
                  "");
    stream_head.size = (size_t)snprintf(stream_head.bytes, sizeof stream_head.bytes,
                                        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                                        "Transfer-Encoding: chunked\r\n\r\n%s",
                                        role.bytes);
    prepare_chunk(&token_chunks[0],
                  "{\"index\":0,\"delta\":{\"content\":\" token\"},\"logprobs\":null,\"finish_reason\":null}", "");
    char choice[512];
    snprintf(choice, sizeof choice,
             "{\"index\":0,\"delta\":{\"content\":\" token\"},\"logprobs\":{\"content\":[%s]},\"finish_reason\":null}",
             TOKEN_LOGPROB);
    prepare_chunk(&token_chunks[1], choice, "");
    prepare_chunk(&finish_chunk, "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}", "");
    stream_end.size = add_chunk(stream_end.bytes, sizeof stream_end.bytes, "[DONE]");
    stream_end.size += (size_t)sprintf(stream_end.bytes + stream_end.size, "0\r\n\r\n");
}

// --- sending ---------------------------------------------------------------------------------------------------------

static void watch(Connection *c, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
}

// Sends what is left over from earlier writes; false when the connection is broken.
static bool flush(Connection *c) {
    while (c->output_sent < c->output_size) {
        ssize_t sent = send(c->fd, c->output + c->output_sent, c->output_size - c->output_sent, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) return false;
            watch(c, EPOLLIN | EPOLLOUT);
            return true;
        }
        c->output_sent += (size_t)sent;
    }
    if (c->output_size) watch(c, EPOLLIN);
    c->output_size = c->output_sent = 0;
    return true;
}

static bool put(Connection *c, const char *bytes, size_t size) {
    if (c->output_size == 0) {
        ssize_t sent = send(c->fd, bytes, size, MSG_NOSIGNAL);
        if (sent == (ssize_t)size) return true;
        if (sent < 0 && errno != EAGAIN) return false;
        if (sent > 0) bytes += sent, size -= (size_t)sent;
    }
    if (c->output_size + size > c->output_room) {
        c->output_room = (c->output_size + size) * 2;
        c->output = resize(c->output, c->output_room);
    }
    memcpy(c->output + c->output_size, bytes, size);
    c->output_size += size;
    return flush(c);
}

static void wait_until(Connection *c, State state, int64_t due_us) {
    c->state = state;
    c->due_us = due_us;
    c->has_timer = true;
    timers++;
}

static void forget_timer(Connection *c) {
    if (c->has_timer) timers--;
    c->has_timer = false;
}

static bool end_stream(Connection *c) {
    c->state = READING;
    if (!put(c, finish_chunk.bytes, finish_chunk.size)) return false;
    if (c->wants_usage) {
        char usage[160];
        Text chunk;
        snprintf(usage, sizeof usage,
                 ",\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%ld,\"total_tokens\":%ld}", PROMPT_TOKENS,
                 c->tokens, PROMPT_TOKENS + c->tokens);
        prepare_chunk(&chunk, "", usage);
        if (!put(c, chunk.bytes, chunk.size)) return false;
    }
    return put(c, stream_end.bytes, stream_end.size);
}

static bool stream_tokens(Connection *c) {
    while (c->tokens_sent < c->tokens) {
        if (!put(c, token_chunks[c->wants_logprobs].bytes, token_chunks[c->wants_logprobs].size)) return false;
        c->tokens_sent++;
        if (c->interval_us > 0) {
            wait_until(c, STREAMING, c->due_us + c->interval_us);
            return true;
        }
    }
    return end_stream(c);
}

static bool answer(Connection *c) {
    if (!c->wants_stream) {
        c->state = READING;
        return put(c, json_answers[c->wants_logprobs].bytes, json_answers[c->wants_logprobs].size);
    }
    c->state = STREAMING;
    c->tokens_sent = 0;
    c->due_us = now_us();
    return put(c, stream_head.bytes, stream_head.size) && stream_tokens(c);
}

// --- receiving -------------------------------------------------------------------------------------------------------

// Reads "mock:lat=US,tok=N,itv=US" where the body has it.
static void read_steering(Connection *c, const char *body, size_t size) {
    c->latency_us = c->interval_us = 0;
    c->tokens = DEFAULT_TOKENS;
    const char *end = body + size, *at = memmem(body, size, "mock:", 5);
    for (at = at ? at + 5 : end; at + 4 < end && *at != '"';) {
        long value = strtol(at + 4, NULL, 10);
        if (!strncmp(at, "lat=", 4)) c->latency_us = value;
        if (!strncmp(at, "tok=", 4)) c->tokens = value;
        if (!strncmp(at, "itv=", 4)) c->interval_us = value;
        while (at < end && *at != ',' && *at != '"') at++;
        if (at < end && *at == ',') at++;
    }
}

static bool is_true(const char *body, size_t size, const char *name) {
    const char *at = memmem(body, size, name, strlen(name)), *end = body + size;
    if (!at) return false;
    for (at += strlen(name); at < end && (*at == ' ' || *at == ':' || *at == '"');) at++;
    return at < end && *at == 't';
}

static bool answer_get(Connection *c) {
    char body[64], text[256];
    bool is_stats = !strncmp(c->input, "GET /stats", 10);
    int size = is_stats ? snprintf(body, sizeof body, "{\"requests\": %llu}", requests)
                        : snprintf(body, sizeof body, "{\"status\": \"ok\"}");
    int all = snprintf(text, sizeof text,
                       "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", size, body);
    return put(c, text, (size_t)all);
}

static size_t content_length(const char *head, const char *end) {
    for (const char *line = head; line < end;) {
        const char *next = memmem(line, (size_t)(end + 2 - line), "\r\n", 2);
        if (!next) break;
        if (!strncasecmp(line, "content-length:", 15)) return strtoul(line + 15, NULL, 10);
        line = next + 2;
    }
    return 0;
}

// Answers every whole request in the input; false when the connection is broken or speaks something else.
static bool take_requests(Connection *c) {
    while (c->state == READING && c->input_size) {
        char *end = memmem(c->input, c->input_size, "\r\n\r\n", 4);
        if (!end) return true;
        size_t head = (size_t)(end - c->input) + 4, body = content_length(c->input, end);
        if (c->input_size < head + body) return true;
        bool is_post = !strncmp(c->input, "POST ", 5);
        if (!is_post && strncmp(c->input, "GET ", 4)) return false;
        if (!is_post && !answer_get(c)) return false;
        if (is_post) {
            requests++;
            c->wants_stream = is_true(c->input + head, body, "\"stream\"");
            c->wants_usage = is_true(c->input + head, body, "\"include_usage\"");
            c->wants_logprobs = is_true(c->input + head, body, "\"logprobs\"");
            read_steering(c, c->input + head, body);
        }
        c->input_size -= head + body;
        memmove(c->input, c->input + head + body, c->input_size);
        if (!c->input_size && c->input_room > INPUT_BYTES) {
            c->input_room = INPUT_BYTES;  // ten thousand connections must not keep a large body's room each
            c->input = resize(c->input, c->input_room);
        }
        if (is_post && c->latency_us > 0) wait_until(c, WAITING, now_us() + c->latency_us);
        if (is_post && c->latency_us == 0 && !answer(c)) return false;
    }
    return true;
}

static bool receive(Connection *c) {
    for (;;) {
        if (c->input_room - c->input_size < INPUT_BYTES / 4) {
            c->input_room *= 2;
            c->input = resize(c->input, c->input_room);
        }
        size_t room = c->input_room - c->input_size;
        ssize_t received = recv(c->fd, c->input + c->input_size, room, 0);
        if (received == 0) return false;
        if (received < 0) return errno == EAGAIN ? take_requests(c) : false;
        c->input_size += (size_t)received;
        if ((size_t)received < room) return take_requests(c);
    }
}

// --- connections -----------------------------------------------------------------------------------------------------

static void hang_up(Connection *c) {
    forget_timer(c);
    connections[c->fd] = NULL;
    close(c->fd);
    free(c->input);
    free(c->output);
    free(c);
}

static void accept_all(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), one = 1;
        if (fd < 0) return;
        if (fd >= MAX_CONNECTIONS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        Connection *c = calloc(1, sizeof *c);
        if (!c) die("calloc");
        c->fd = fd;
        c->input_room = INPUT_BYTES;
        c->input = resize(NULL, c->input_room);
        connections[fd] = c;
        if (fd > highest_fd) highest_fd = fd;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    }
}

static void run_timers(void) {
    int64_t now = now_us();
    for (int fd = 0; fd <= highest_fd; fd++) {
        Connection *c = connections[fd];
        if (!c || !c->has_timer || c->due_us > now) continue;
        forget_timer(c);
        bool is_well = c->state == WAITING ? answer(c) : stream_tokens(c);
        if (!is_well || !take_requests(c)) hang_up(c);
    }
}

static int64_t until_next_timer_us(void) {
    int64_t now = now_us(), next = now + 1000000;
    for (int fd = 0; fd <= highest_fd; fd++) {
        Connection *c = connections[fd];
        if (c && c->has_timer && c->due_us < next) next = c->due_us;
    }
    return next > now ? next - now : 0;
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) die("listen");
    return fd;
}

static void stop(int signal_number) {
    (void)signal_number;
    stopped = 1;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: mock_upstream PORT\n");
        return 2;
    }
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    prepare_answers();
    int listener = listen_on(atoi(argv[1]));
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, ready[256];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    while (!stopped) {
        struct timespec wait = {.tv_sec = 1};
        if (timers) {
            int64_t wait_us = until_next_timer_us();
            wait = (struct timespec){.tv_sec = wait_us / 1000000, .tv_nsec = wait_us % 1000000 * 1000};
        }
        int count = epoll_pwait2(epoll_fd, ready, 256, &wait, NULL);
        for (int i = 0; i < count; i++) {
            Connection *c = ready[i].data.ptr;
            if (!c) {
                accept_all(listener);
                continue;
            }
            bool is_well = !(ready[i].events & EPOLLOUT) || flush(c);
            if (is_well && ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) is_well = receive(c);
            if (!is_well) hang_up(c);
        }
        if (timers) run_timers();
    }
    return 0;
}
