/* What goes around each call of the real module. */
#include <errno.h>
#include <time.h>

#include "shim.h"

pthread_rwlock_t calling = PTHREAD_RWLOCK_INITIALIZER;

static void delay(uint64_t microseconds)
{
	struct timespec t = {microseconds / 1000000, microseconds % 1000000 * 1000};
	while (nanosleep(&t, &t) != 0 && errno == EINTR)
		;
}

/* When this thread's call began. Calls don't nest. */
static __thread uint64_t began;

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Notes that a call is under way. */
static void begin(struct control *c, int f)
{
	began = now();
	add(&c->calls[f]);
	uint64_t n = add(&c->busy), most = load(&c->busiest);
	while (n > most && !__atomic_compare_exchange_n(&c->busiest, &most, n, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
		;
}

/* Notes that it has ended. */
static void end(struct control *c, int f)
{
	__atomic_add_fetch(&c->spent[f], now() - began, __ATOMIC_ACQ_REL);
	__atomic_sub_fetch(&c->busy, 1, __ATOMIC_ACQ_REL);
}

word fail(struct control *c, int f, word code)
{
	add(&c->failed[f]);
	return code;
}

word enter(int f, word *after)
{
	struct control *c = theControl();
	*after = CKR_OK;
	begin(c, f);
	uint64_t d = load(&c->delay[f]);
	if (d == 0)
		d = load(&c->delay[ANY]);
	if (d != 0)
		delay(d);
	word before = CKR_OK;
	uint64_t used = load(&c->used);
	for (uint64_t i = 0; i < used && i < RULES; i++) {
		struct rule *r = &c->rule[i];
		if (load(&r->armed) != 1)
			continue;
		uint64_t of = load(&r->function);
		if (of != (uint64_t)f && of != ANY)
			continue;
		uint64_t n = add(&r->seen); /* every rule counts, the first that applies acts */
		if (n < load(&r->from) || n > load(&r->to) || before != CKR_OK || *after != CKR_OK)
			continue;
		if (load(&r->after))
			*after = load(&r->code);
		else
			before = load(&r->code);
	}
	if (f != n_C_Initialize && f != n_C_Finalize && f != n_C_GetInfo) {
		expel(c);
		census(c);
		word lost = load(&c->lost);
		if (lost != CKR_OK)
			before = lost;
	}
	if (before != CKR_OK) {
		end(c, f);
		return fail(c, f, before);
	}
	pthread_rwlock_rdlock(&calling);
	return CKR_OK;
}

word leave(int f, word answer, word after)
{
	struct control *c = theControl();
	pthread_rwlock_unlock(&calling);
	end(c, f);
	if (after == CKR_OK)
		return answer;
	return fail(c, f, after);
}

void ask(int f, word buffer)
{
	if (buffer == 0)
		add(&theControl()->sizes[f]);
}
