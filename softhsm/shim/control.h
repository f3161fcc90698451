/* The control file: package softhsm (shim.go) has the same layout. */
#ifndef SHIM_CONTROL_H
#define SHIM_CONTROL_H

#include <stdint.h>

/* The same numbers stand in shim.go. */
enum {
	VERSION = 2,
	RULES = 64,
	TABLE = 128,   /* words of each table by function */
	ANY = TABLE - 1 /* "any function" in rules and delays */
};
#define MAGIC UINT64_C(0x646b2d7368696d31)

/* A rule fails the calls number from..to of a function, counted from when it was set. */
struct rule {
	uint64_t armed;    /* 1: in force */
	uint64_t function; /* or ANY */
	uint64_t code;     /* CKR_... */
	uint64_t after;    /* 0: the real call isn't made; 1: it is, and its answer is lost */
	uint64_t from, to; /* from 1 */
	uint64_t seen;     /* calls since it was set */
	uint64_t reserved;
};

struct control {
	uint64_t magic, version, functions;
	uint64_t used;     /* rules from here on were never set */
	uint64_t lost;     /* what nearly every call answers; 0: the token is there */
	uint64_t epoch;    /* how often the token was lost; older sessions are dead */
	uint64_t sessions; /* how many a process may have open; 0: any number */
	uint64_t busy;     /* calls under way */
	uint64_t busiest;  /* the most there were at once */
	uint64_t asked;    /* how often a census was asked for, */
	uint64_t told;     /* which of them was answered last, */
	uint64_t objects;  /* session objects it found, */
	uint64_t open;     /* and sessions */
	uint64_t calls[TABLE];
	uint64_t failed[TABLE];
	uint64_t delay[TABLE]; /* microseconds; ANY's for functions without one */
	uint64_t sizes[TABLE]; /* of the calls, those that asked for a size only */
	uint64_t spent[TABLE]; /* nanoseconds in calls that have ended, their delays included */
	struct rule rule[RULES];
};

static inline uint64_t load(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint64_t add(uint64_t *p) { return __atomic_add_fetch(p, 1, __ATOMIC_ACQ_REL); }
static inline void store(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }

/* The file that is mapped, or one in which nothing ever fails. Read by theControl alone. */
extern struct control *control;

static inline struct control *theControl(void) { return __atomic_load_n(&control, __ATOMIC_ACQUIRE); }

/* Maps the control file that the environment names, unless it is mapped. Needs
 * `starting`. A mapping before this one stays, as a call may be reading it. */
int mapControl(void);

#endif
