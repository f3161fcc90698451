/*
 * A PKCS#11 module that stands before another one and fails on request.
 *
 * It forwards every function of PKCS#11 v2.40 to the real module and on the way counts
 * it, times it, delays it, or answers an error in its place. What it does is said in a control
 * file, which it maps shared: whoever else maps that file (the test that started the
 * process) changes the module's behaviour while it runs. Several processes may map one
 * control file; the counts are then of all of them.
 *
 * Environment:
 *   DEVICEKEYS_SHIM_MODULE   the real module; where it isn't set, SoftHSM's usual places
 *   DEVICEKEYS_SHIM_CONTROL  the control file; where it isn't set, nothing ever fails.
 *                            Read again by each C_Initialize.
 *
 * The control file is an array of 64-bit words in the machine's byte order; package
 * softhsm (shim.go) makes it and has the same layout. Each word is read and written
 * atomically; a rule's `armed` is written last.
 *
 * C99 with gcc's atomics, for 64-bit Unix. It is for tests: it sees every PIN.
 *
 *   functions.h   the functions of PKCS#11
 *   control       the control file
 *   real.c        the real module
 *   call.c        what goes around each call
 *   session.c     sessions, their limit and their loss
 *   census.c      what a process has in its token
 *   shim.c        the functions that are only forwarded, and the list of all
 */
#include "shim.h"

#define BODY(name, types, arguments) \
	{ \
		word after, rv = enter(n_##name, &after); \
		if (rv != CKR_OK) \
			return rv; \
		rv = ((word (*) types)real->function[n_##name]) arguments; \
		return leave(n_##name, rv, after); \
	}
#define FORWARD1(name) static word name(word a) BODY(name, (word), (a))
#define FORWARD2(name) static word name(word a, word b) BODY(name, (word, word), (a, b))
#define FORWARD3(name) static word name(word a, word b, word c) BODY(name, (word, word, word), (a, b, c))
#define FORWARD4(name) static word name(word a, word b, word c, word d) \
	BODY(name, (word, word, word, word), (a, b, c, d))
#define FORWARD5(name) static word name(word a, word b, word c, word d, word e) \
	BODY(name, (word, word, word, word, word), (a, b, c, d, e))
#define FORWARD6(name) static word name(word a, word b, word c, word d, word e, word f) \
	BODY(name, (word, word, word, word, word, word), (a, b, c, d, e, f))
#define FORWARD8(name) static word name(word a, word b, word c, word d, word e, word f, word g, word h) \
	BODY(name, (word, word, word, word, word, word, word, word), (a, b, c, d, e, f, g, h))
#define FORWARD(name, n) FORWARD##n(name)
#define ASKED3(name) static word name(word a, word b, word c) \
	{ ask(n_##name, b); BODY(name, (word, word, word), (a, b, c)) }
#define ASKED5(name) static word name(word a, word b, word c, word d, word e) \
	{ ask(n_##name, d); BODY(name, (word, word, word, word, word), (a, b, c, d, e)) }
#define ASKED6(name) static word name(word a, word b, word c, word d, word e, word f) \
	{ ask(n_##name, e); BODY(name, (word, word, word, word, word, word), (a, b, c, d, e, f)) }
#define ASKED(name, n) ASKED##n(name)
#define NOTHING(name, n)
FUNCTIONS(FORWARD, NOTHING, ASKED)

static word C_GetSlotList(unsigned char present, word *list, word *count)
	BODY(C_GetSlotList, (unsigned char, word *, word *), (present, list, count))

static word C_Initialize(word arguments)
{
	pthread_mutex_lock(&starting);
	int mapped = mapControl();
	pthread_mutex_unlock(&starting);
	if (!mapped)
		return CKR_GENERAL_ERROR;
	word after, rv = enter(n_C_Initialize, &after);
	if (rv != CKR_OK)
		return rv;
	rv = ((word (*)(word))real->function[n_C_Initialize])(arguments);
	if (rv == CKR_OK) /* nothing is open yet that could be lost */
		store(&epoch, load(&theControl()->epoch));
	return leave(n_C_Initialize, rv, after);
}

__attribute__((visibility("default"))) word C_GetFunctionList(struct list **out);

#define ENTRY(name, n) (anyFunction)name,
static struct list own = {2, 40, {FUNCTIONS(ENTRY, ENTRY, ENTRY)}};

word C_GetFunctionList(struct list **out)
{
	pthread_mutex_lock(&starting);
	int ready = (real != NULL || findReal()) && mapControl();
	pthread_mutex_unlock(&starting);
	if (!ready || out == NULL)
		return CKR_GENERAL_ERROR;
	*out = &own;
	return CKR_OK;
}
