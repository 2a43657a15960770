/* Calls on files fail at random, or the process is killed at one of them: for LD_PRELOAD.

Settings are variables of the environment, read when the library is loaded, and by `faults_begin`:

FAULTS_BELOW        folders, separated by `:`; only calls on files below them fail or count
FAULTS_CALLS        names of calls, separated by spaces; empty = all of them
FAULTS_PROBABILITY  that a call fails
FAULTS_SEED         of the random numbers
FAULTS_ERRNO        of all faults; these then have done nothing. 0 = at random, as fits the call
FAULTS_KILL_AT      the process is killed before its n-th call, from 1; 0 = never
FAULTS_LOG          file; a line for each fault: call, errno, 1 if only the reply was lost, path

A call that fails has done nothing, or, of link, rename, renameat2, unlink and fsync, all: then the
reply is lost, as on a network filesystem. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static char below[2 * PATH_MAX], calls[256], log_path[PATH_MAX];
static double probability;
static uint64_t seed;
static long kill_at;
static int only;
static _Atomic long count;
static _Atomic int is_on;

static const int ON_READ[] = {EIO, ESTALE, 0}, ON_OPEN[] = {EIO, ESTALE, EMFILE, 0},
                 ON_MAP[] = {EIO, ESTALE, ENOMEM, 0},
                 ON_WRITE[] = {EIO, ESTALE, EDQUOT, ENOSPC, 0},
                 ON_CREATE[] = {EIO, ESTALE, EDQUOT, ENOSPC, EMFILE, 0};

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

void faults_begin(void) {
    snprintf(below, sizeof below, "%s", setting("FAULTS_BELOW"));
    snprintf(calls, sizeof calls, " %s ", setting("FAULTS_CALLS"));
    snprintf(log_path, sizeof log_path, "%s", setting("FAULTS_LOG"));
    probability = atof(setting("FAULTS_PROBABILITY"));
    seed = strtoull(setting("FAULTS_SEED"), NULL, 10);
    only = atoi(setting("FAULTS_ERRNO"));
    kill_at = atol(setting("FAULTS_KILL_AT"));
    count = 0;
    is_on = below[0] != 0;
}

__attribute__((constructor)) static void begin(void) { faults_begin(); }

static uint64_t mixed(uint64_t x) { /* splitmix64 */
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
}

static int is_below(const char *path) {
    char absolute[2 * PATH_MAX] = "";
    if (path[0] != '/') {
        if (!getcwd(absolute, PATH_MAX)) return 0;
        strcat(absolute, "/");
    }
    strncat(absolute, path, PATH_MAX - 1);
    for (const char *folder = below; *folder;) {
        size_t length = strcspn(folder, ":");
        if (length && !strncmp(absolute, folder, length) && absolute[length] == '/') return 1;
        folder += length + (folder[length] == ':');
    }
    return 0;
}

/* Returns the errno of a fault, or 0; `lost` becomes 1 if the call is to be done all the same. */
static int fault(const char *call, const char *path, const int *numbers, int *lost) {
    if (!is_on || !path || !is_below(path)) return 0;
    char word[32];
    snprintf(word, sizeof word, " %s ", call);
    if (calls[2] && !strstr(calls, word)) return 0;
    long index = ++count;
    if (index == kill_at) {
        kill(getpid(), SIGKILL);
        pause();
    }
    uint64_t chance = mixed(mixed(seed) + index);
    if ((chance >> 11) * 0x1p-53 >= probability) return 0;
    int length = 0;
    while (numbers[length]) length++;
    uint64_t choice = mixed(chance);
    int number = numbers[choice % length];
    *lost = *lost && !only && (choice >> 32) & 1;
    if (only) number = only;
    char line[PATH_MAX + 64];
    int size = snprintf(line, sizeof line, "%s\t%d\t%d\t%s\n", call, number, *lost, path);
    int file = syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_APPEND | O_CREAT, 0644);
    if (file >= 0) {
        syscall(SYS_write, file, line, size);
        syscall(SYS_close, file);
    }
    return number;
}

static const char *path_of(int file, char *path) {
    char link[64];
    if (!is_on || file <= 2) return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (length < 0) return NULL;
    path[length] = 0;
    return path;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)
#define FAILED(value) return errno = number, value

#define OF_PATHS(name, parameters, names, path, numbers) \
    int name parameters { \
        REAL(int, name, ARGUMENTS); \
        int lost = 1, kept = errno, number = fault(#name, path, numbers, &lost); \
        errno = kept; \
        if (number && lost) real names; \
        if (number) FAILED(-1); \
        return real names; \
    }

#define ARGUMENTS const char *, const char *
OF_PATHS(link, (const char *from, const char *to), (from, to), to, ON_WRITE)
OF_PATHS(rename, (const char *from, const char *to), (from, to), to, ON_WRITE)
#undef ARGUMENTS
#define ARGUMENTS int, const char *, int, const char *, unsigned
OF_PATHS(renameat2, (int one, const char *from, int other, const char *to, unsigned flags),
         (one, from, other, to, flags), to, ON_WRITE)
#undef ARGUMENTS
#define ARGUMENTS const char *
OF_PATHS(unlink, (const char *path), (path), path, ON_READ)
#undef ARGUMENTS

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, name, const char *, int, ...); \
        mode_t mode = 0; \
        if (flags & (O_CREAT | __O_TMPFILE)) { \
            va_list more; \
            va_start(more, flags); \
            mode = va_arg(more, mode_t); \
            va_end(more); \
        } \
        int lost = 0, number = fault("open", path, flags & O_CREAT ? ON_CREATE : ON_OPEN, &lost); \
        if (number) FAILED(-1); \
        return real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OF_FILE(name, call, type, parameters, names, numbers, is_lossy, failed) \
    type name parameters { \
        REAL(type, name, ARGUMENTS); \
        char path[PATH_MAX]; \
        int lost = is_lossy, kept = errno, \
            number = fault(call, path_of(file, path), numbers, &lost); \
        errno = kept; \
        if (number && lost) real names; \
        if (number) FAILED(failed); \
        return real names; \
    }

#define ARGUMENTS int
OF_FILE(fsync, "fsync", int, (int file), (file), ON_WRITE, 1, -1)
#undef ARGUMENTS
#define ARGUMENTS int, void *, size_t
OF_FILE(read, "read", ssize_t, (int file, void *data, size_t size), (file, data, size), ON_READ, 0, -1)
#undef ARGUMENTS
#define ARGUMENTS int, const void *, size_t
OF_FILE(write, "write", ssize_t, (int file, const void *data, size_t size), (file, data, size),
        ON_WRITE, 0, -1)
#undef ARGUMENTS
#define ARGUMENTS int, void *, size_t, off_t
OF_FILE(pread, "read", ssize_t, (int file, void *data, size_t size, off_t at),
        (file, data, size, at), ON_READ, 0, -1)
OF_FILE(pread64, "read", ssize_t, (int file, void *data, size_t size, off_t at),
        (file, data, size, at), ON_READ, 0, -1)
#undef ARGUMENTS
#define ARGUMENTS int, const void *, size_t, off_t
OF_FILE(pwrite, "write", ssize_t, (int file, const void *data, size_t size, off_t at),
        (file, data, size, at), ON_WRITE, 0, -1)
OF_FILE(pwrite64, "write", ssize_t, (int file, const void *data, size_t size, off_t at),
        (file, data, size, at), ON_WRITE, 0, -1)
#undef ARGUMENTS
#define ARGUMENTS void *, size_t, int, int, int, off_t
OF_FILE(mmap, "mmap", void *, (void *at, size_t size, int access, int flags, int file, off_t from),
        (at, size, access, flags, file, from), ON_MAP, 0, MAP_FAILED)
OF_FILE(mmap64, "mmap", void *,
        (void *at, size_t size, int access, int flags, int file, off_t from),
        (at, size, access, flags, file, from), ON_MAP, 0, MAP_FAILED)
