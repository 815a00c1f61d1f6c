/* A library to preload: file operations below one folder are counted, and fail or kill at a chosen one; clocks jump.

   FAULTS_PATH   the folder; without it nothing is changed
   FAULTS_WHAT   kill, kill_alone, short, an error's number (5 for EIO), read (EIO when reading), count, or clock
   FAULTS_AT     the operation, from 1, at which it begins
   FAULTS_TIMES  how many operations it lasts; 0 for all that follow
   FAULTS_FILE   for count: where a process that ends writes how many operations it has done

   Read at every call, because a process that was forked sets them after this library was loaded. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

enum { NOTHING = 0, SHORT = -1 };

static long count;

static long number(const char *name) {
    const char *value = getenv(name);
    return value ? atol(value) : 0;
}

static int is_below(const char *path) {
    const char *folder = getenv("FAULTS_PATH");
    return folder && path && !strncmp(path, folder, strlen(folder));
}

static int is_file_below(int fd) {
    char link[64], path[4096];
    if (!getenv("FAULTS_PATH")) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

/* Count an operation; returns the error it is to fail with, SHORT, or NOTHING. */
static int next(int reads) {
    const char *what = getenv("FAULTS_WHAT");
    if (!what || !strcmp(what, "clock") || reads != !strcmp(what, "read")) return NOTHING;
    long now = __sync_add_and_fetch(&count, 1), at = number("FAULTS_AT"), times = number("FAULTS_TIMES");
    if (!strcmp(what, "count") || now < at || (times && now >= at + times)) return NOTHING;
    if (!strcmp(what, "kill")) {
        kill(0, SIGKILL);
        pause();
    }
    if (!strcmp(what, "kill_alone")) {
        kill(getsid(0), SIGKILL);
        return NOTHING;
    }
    if (!strcmp(what, "short")) return SHORT;
    return reads ? EIO : atoi(what);
}

#define FAIL(below, reads, failure) \
    int fault = (below) ? next(reads) : NOTHING; \
    if (fault > 0) { errno = fault; return failure; }

ssize_t write(int fd, const void *from, size_t size) {
    REAL(write);
    FAIL(is_file_below(fd), 0, -1)
    return real(fd, from, fault == SHORT && size > 1 ? size / 2 : size);
}
ssize_t pwrite(int fd, const void *from, size_t size, off_t at) {
    REAL(pwrite);
    FAIL(is_file_below(fd), 0, -1)
    return real(fd, from, fault == SHORT && size > 1 ? size / 2 : size, at);
}
ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at) {
    REAL(pwrite64);
    FAIL(is_file_below(fd), 0, -1)
    return real(fd, from, fault == SHORT && size > 1 ? size / 2 : size, at);
}
ssize_t writev(int fd, const struct iovec *parts, int number_of_parts) {
    REAL(writev);
    FAIL(is_file_below(fd), 0, -1)
    return real(fd, parts, fault == SHORT && number_of_parts > 1 ? number_of_parts / 2 : number_of_parts);
}
ssize_t read(int fd, void *to, size_t size) {
    REAL(read);
    FAIL(is_file_below(fd), 1, -1)
    return real(fd, to, size);
}
ssize_t pread64(int fd, void *to, size_t size, off64_t at) {
    REAL(pread64);
    FAIL(is_file_below(fd), 1, -1)
    return real(fd, to, size, at);
}
int fsync(int fd) {
    REAL(fsync);
    FAIL(is_file_below(fd), 0, -1)
    return real(fd);
}
int fdatasync(int fd) {
    REAL(fdatasync);
    FAIL(is_file_below(fd), 0, -1)
    return real(fd);
}
int posix_fallocate64(int fd, off64_t at, off64_t size) {
    REAL(posix_fallocate64);
    int fault = is_file_below(fd) ? next(0) : NOTHING;
    return fault > 0 ? fault : real(fd, at, size);
}
int rename(const char *from, const char *to) {
    REAL(rename);
    FAIL(is_below(to), 0, -1)
    return real(from, to);
}
int unlink(const char *path) {
    REAL(unlink);
    FAIL(is_below(path), 0, -1)
    return real(path);
}
int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    FAIL(is_below(path), 0, -1)
    return real(path, mode);
}

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = va_arg(rest, mode_t); \
        va_end(rest); \
        FAIL((flags & (O_WRONLY | O_RDWR | O_CREAT)) && is_below(path), 0, -1) \
        return real(path, flags, mode); \
    }
OPENS(open)
OPENS(open64)

/* Every FAULTS_TIMES calls the clock changes between its own time, FAULTS_AT seconds later, and as many earlier. */
static long jump(void) {
    const char *what = getenv("FAULTS_WHAT");
    if (!what || strcmp(what, "clock") || !getenv("FAULTS_PATH")) return 0;
    long phase = __sync_add_and_fetch(&count, 1) / (number("FAULTS_TIMES") + 1) % 3;
    return phase == 0 ? 0 : phase == 1 ? number("FAULTS_AT") : -number("FAULTS_AT");
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += jump();
    return result;
}
time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *now, void *zone) {
    REAL(gettimeofday);
    int result = real(now, zone);
    now->tv_sec += jump();
    return result;
}

__attribute__((destructor)) static void write_count(void) {
    const char *file = getenv("FAULTS_FILE");
    /* Of the command alone, not of its workers. */
    if (!file || getpid() != getsid(0)) return;
    FILE *to = fopen(file, "w");
    if (to) {
        fprintf(to, "%ld\n", count);
        fclose(to);
    }
}
