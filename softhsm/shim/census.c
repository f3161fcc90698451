/* Counts, when asked, what a process has in its token. */
#include "shim.h"

/* Held by the one who counts. */
static pthread_mutex_t counting = PTHREAD_MUTEX_INITIALIZER;

#define CKA_TOKEN 0x01UL

/* Counts the session objects that this process has in a slot, in a session of its own. Other
 * sessions' objects are found too, and the login is the process's. */
static word countObjects(word slot, uint64_t *found)
{
	word (*openSession)(word, word, word, word, word *) = (word (*)(word, word, word, word, word *))real->function[n_C_OpenSession];
	word (*findInit)(word, word *, word) = (word (*)(word, word *, word))real->function[n_C_FindObjectsInit];
	word (*find)(word, word *, word, word *) = (word (*)(word, word *, word, word *))real->function[n_C_FindObjects];
	word (*closeSession)(word) = (word (*)(word))real->function[n_C_CloseSession];
	word session, rv = openSession(slot, 4, 0, 0, &session); /* CKF_SERIAL_SESSION */
	if (rv != CKR_OK)
		return rv;
	unsigned char no = 0;
	word template[3] = {CKA_TOKEN, (word)&no, 1}, objects[64], n = 1;
	rv = findInit(session, template, 1);
	for (*found = 0; rv == CKR_OK && n > 0; *found += n)
		if ((rv = find(session, objects, 64, &n)) != CKR_OK)
			n = 0;
	closeSession(session); /* and with it the search */
	return rv;
}

void census(struct control *c)
{
	uint64_t asked = load(&c->asked);
	if (load(&c->told) == asked)
		return;
	pthread_mutex_lock(&counting);
	word slot;
	size_t open = openSessions(&slot);
	uint64_t objects = 0;
	pthread_rwlock_rdlock(&calling);
	if (load(&c->told) != asked && open > 0 && countObjects(slot, &objects) == CKR_OK) {
		store(&c->objects, objects);
		store(&c->open, open);
		store(&c->told, asked);
	}
	pthread_rwlock_unlock(&calling);
	pthread_mutex_unlock(&counting);
}
