/* The sessions that are open: their limit, and what a lost token does to them. */
#include <stdlib.h>

#include "shim.h"

uint64_t epoch;

/* The sessions that are open, for the limit and for closing them. */
static pthread_mutex_t listing = PTHREAD_MUTEX_INITIALIZER;
static struct session { word handle, slot; } *sessions;
static size_t sessionCount, sessionRoom;
static size_t opening; /* asked for and not yet answered */

/* Forgets the sessions of a slot, or all. */
static void forget(int all, word slot)
{
	pthread_mutex_lock(&listing);
	size_t kept = 0;
	for (size_t i = 0; i < sessionCount; i++)
		if (!all && sessions[i].slot != slot)
			sessions[kept++] = sessions[i];
	sessionCount = kept;
	pthread_mutex_unlock(&listing);
}

void expel(struct control *c)
{
	uint64_t e = load(&c->epoch);
	if (load(&epoch) == e)
		return;
	pthread_rwlock_wrlock(&calling);
	if (load(&epoch) != e) {
		word (*closeAll)(word) = (word (*)(word))real->function[n_C_CloseAllSessions];
		pthread_mutex_lock(&listing);
		for (size_t i = 0; i < sessionCount; i++)
			closeAll(sessions[i].slot); /* again for a slot does no harm */
		sessionCount = 0;
		pthread_mutex_unlock(&listing);
		store(&epoch, e);
	}
	pthread_rwlock_unlock(&calling);
}

size_t openSessions(word *slot)
{
	pthread_mutex_lock(&listing);
	size_t open = sessionCount;
	*slot = open > 0 ? sessions[0].slot : 0;
	pthread_mutex_unlock(&listing);
	return open;
}

word C_Finalize(word reserved)
{
	word after, rv = enter(n_C_Finalize, &after);
	if (rv != CKR_OK)
		return rv;
	rv = ((word (*)(word))real->function[n_C_Finalize])(reserved);
	if (rv == CKR_OK)
		forget(1, 0);
	return leave(n_C_Finalize, rv, after);
}

word C_OpenSession(word slot, word flags, word application, word notify, word *handle)
{
	word after, rv = enter(n_C_OpenSession, &after);
	if (rv != CKR_OK)
		return rv;
	struct control *c = theControl();
	uint64_t limit = load(&c->sessions);
	pthread_mutex_lock(&listing);
	if (limit != 0 && sessionCount + opening >= limit)
		rv = CKR_SESSION_COUNT;
	if (rv == CKR_OK && sessionCount + opening >= sessionRoom) {
		size_t room = 2 * sessionRoom + 16;
		struct session *more = realloc(sessions, room * sizeof *more);
		if (more == NULL) {
			rv = CKR_HOST_MEMORY;
		} else {
			sessions = more;
			sessionRoom = room;
		}
	}
	if (rv == CKR_OK)
		opening++;
	pthread_mutex_unlock(&listing);
	if (rv != CKR_OK) {
		fail(c, n_C_OpenSession, rv);
		return leave(n_C_OpenSession, rv, CKR_OK);
	}
	rv = ((word (*)(word, word, word, word, word *))real->function[n_C_OpenSession])(slot, flags, application, notify, handle);
	pthread_mutex_lock(&listing);
	opening--;
	if (rv == CKR_OK) {
		sessions[sessionCount].handle = *handle;
		sessions[sessionCount++].slot = slot;
	}
	pthread_mutex_unlock(&listing);
	return leave(n_C_OpenSession, rv, after);
}

word C_CloseSession(word handle)
{
	word after, rv = enter(n_C_CloseSession, &after);
	if (rv != CKR_OK)
		return rv;
	rv = ((word (*)(word))real->function[n_C_CloseSession])(handle);
	pthread_mutex_lock(&listing);
	for (size_t i = 0; rv == CKR_OK && i < sessionCount; i++)
		if (sessions[i].handle == handle) {
			sessions[i] = sessions[--sessionCount];
			break;
		}
	pthread_mutex_unlock(&listing);
	return leave(n_C_CloseSession, rv, after);
}

word C_CloseAllSessions(word slot)
{
	word after, rv = enter(n_C_CloseAllSessions, &after);
	if (rv != CKR_OK)
		return rv;
	rv = ((word (*)(word))real->function[n_C_CloseAllSessions])(slot);
	if (rv == CKR_OK)
		forget(0, slot);
	return leave(n_C_CloseAllSessions, rv, after);
}
