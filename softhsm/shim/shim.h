/*
 * What the shim's parts know of each other. Nothing but C_GetFunctionList is seen outside:
 * it is compiled with -fvisibility=hidden.
 */
#ifndef SHIM_H
#define SHIM_H

#include <pthread.h>

#include "control.h"
#include "functions.h"

#define CKR_OK 0x00UL
#define CKR_HOST_MEMORY 0x02UL
#define CKR_GENERAL_ERROR 0x05UL
#define CKR_SESSION_COUNT 0xB1UL

/* The real module's function list: its version, then the functions. */
typedef void (*anyFunction)(void);
struct list {
	unsigned char major, minor;
	anyFunction function[FUNCTION_COUNT];
};
extern struct list *real; /* real.c */

/* Held while the module is looked for and while a control file is mapped. */
extern pthread_mutex_t starting; /* real.c */

/* Finds and loads the real module. Needs `starting`. */
int findReal(void);

/* Says on standard error what can't be done, and gives 0. */
int complain(const char *act, const char *value, const char *why);

/* Held for reading by every forwarded call, for writing while the sessions of a lost
 * token are closed: none is taken away under a call that uses it. */
extern pthread_rwlock_t calling; /* call.c */

/* What goes before each real call: counts it, delays it, and decides whether it fails.
 * Not CKR_OK: the call isn't made, and this is its answer. *after: the answer that is to
 * take the place of the real one. */
word enter(int f, word *after);

/* What goes after each real call. */
word leave(int f, word answer, word after);

/* Counts a failure that the shim made, and gives its code. */
word fail(struct control *c, int f, word code);

/* Counts a call that asks how long its output would be: its buffer is NULL. */
void ask(int f, word buffer);

/* The control file's epoch when sessions were last closed. */
extern uint64_t epoch; /* session.c */

/* Closes what was open when the token was lost. The real module thereby ends its logins
 * and destroys its session objects, as a token does that is pulled out. */
void expel(struct control *c);

/* Tells how many sessions are open, and a slot that has one. */
size_t openSessions(word *slot);

/* Answers the census that was asked for, if any. */
void census(struct control *c);

/* Functions that open and close sessions: session.c. */
word C_Finalize(word reserved);
word C_OpenSession(word slot, word flags, word application, word notify, word *handle);
word C_CloseSession(word handle);
word C_CloseAllSessions(word slot);

#endif
