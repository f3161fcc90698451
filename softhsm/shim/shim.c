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
 */
#define _POSIX_C_SOURCE 200809L

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* CK_RV, CK_ULONG, handles and pointers are one machine word each; only the boolean of
 * C_GetSlotList is smaller, and so that function is written out. */
typedef unsigned long word;

/*
 * The functions in the order of the function list (PKCS#11 v2.40, pkcs11f.h), with the
 * number of their parameters. Those marked W are written out below, the others are only
 * forwarded; of those marked S, whose last two parameters are a buffer and its length, the
 * calls without a buffer are counted too. shim.go reads the names out of these lines.
 */
#define FUNCTIONS(F, W, S) \
	W(C_Initialize, 1) \
	W(C_Finalize, 1) \
	F(C_GetInfo, 1) \
	W(C_GetFunctionList, 1) \
	W(C_GetSlotList, 3) \
	F(C_GetSlotInfo, 2) \
	F(C_GetTokenInfo, 2) \
	F(C_GetMechanismList, 3) \
	F(C_GetMechanismInfo, 3) \
	F(C_InitToken, 4) \
	F(C_InitPIN, 3) \
	F(C_SetPIN, 5) \
	W(C_OpenSession, 5) \
	W(C_CloseSession, 1) \
	W(C_CloseAllSessions, 1) \
	F(C_GetSessionInfo, 2) \
	F(C_GetOperationState, 3) \
	F(C_SetOperationState, 5) \
	F(C_Login, 4) \
	F(C_Logout, 1) \
	F(C_CreateObject, 4) \
	F(C_CopyObject, 5) \
	F(C_DestroyObject, 2) \
	F(C_GetObjectSize, 3) \
	F(C_GetAttributeValue, 4) \
	F(C_SetAttributeValue, 4) \
	F(C_FindObjectsInit, 3) \
	F(C_FindObjects, 4) \
	F(C_FindObjectsFinal, 1) \
	F(C_EncryptInit, 3) \
	S(C_Encrypt, 5) \
	S(C_EncryptUpdate, 5) \
	S(C_EncryptFinal, 3) \
	F(C_DecryptInit, 3) \
	S(C_Decrypt, 5) \
	S(C_DecryptUpdate, 5) \
	S(C_DecryptFinal, 3) \
	F(C_DigestInit, 2) \
	S(C_Digest, 5) \
	F(C_DigestUpdate, 3) \
	F(C_DigestKey, 2) \
	S(C_DigestFinal, 3) \
	F(C_SignInit, 3) \
	S(C_Sign, 5) \
	F(C_SignUpdate, 3) \
	S(C_SignFinal, 3) \
	F(C_SignRecoverInit, 3) \
	S(C_SignRecover, 5) \
	F(C_VerifyInit, 3) \
	F(C_Verify, 5) \
	F(C_VerifyUpdate, 3) \
	F(C_VerifyFinal, 3) \
	F(C_VerifyRecoverInit, 3) \
	F(C_VerifyRecover, 5) \
	F(C_DigestEncryptUpdate, 5) \
	F(C_DecryptDigestUpdate, 5) \
	F(C_SignEncryptUpdate, 5) \
	F(C_DecryptVerifyUpdate, 5) \
	F(C_GenerateKey, 5) \
	F(C_GenerateKeyPair, 8) \
	S(C_WrapKey, 6) \
	F(C_UnwrapKey, 8) \
	F(C_DeriveKey, 6) \
	F(C_SeedRandom, 3) \
	F(C_GenerateRandom, 3) \
	F(C_GetFunctionStatus, 1) \
	F(C_CancelFunction, 1) \
	F(C_WaitForSlotEvent, 3)

#define NUMBER(name, n) n_##name,
enum { FUNCTIONS(NUMBER, NUMBER, NUMBER) FUNCTION_COUNT };

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

#define CKR_OK 0x00UL
#define CKR_HOST_MEMORY 0x02UL
#define CKR_GENERAL_ERROR 0x05UL
#define CKR_SESSION_COUNT 0xB1UL

static struct control quiet; /* when there is no control file */
static struct control *control = &quiet;
static char controlPath[4096];

static uint64_t load(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static uint64_t add(uint64_t *p) { return __atomic_add_fetch(p, 1, __ATOMIC_ACQ_REL); }
static void store(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }

/* The real module's function list: its version, then the functions. */
typedef void (*anyFunction)(void);
struct list {
	unsigned char major, minor;
	anyFunction function[FUNCTION_COUNT];
};
static struct list *real;

/* Held while the module is looked for and while a control file is mapped. */
static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;

/* Held for reading by every forwarded call, for writing while the sessions of a lost
 * token are closed: none is taken away under a call that uses it. */
static pthread_rwlock_t calling = PTHREAD_RWLOCK_INITIALIZER;
static uint64_t epoch; /* the control file's when sessions were last closed */

/* The sessions that are open, for the limit and for closing them. */
static pthread_mutex_t listing = PTHREAD_MUTEX_INITIALIZER;
static struct session { word handle, slot; } *sessions;
static size_t sessionCount, sessionRoom;
static size_t opening; /* asked for and not yet answered */

static int complain(const char *act, const char *value, const char *why)
{
	fprintf(stderr, "PKCS#11 shim: %s \"%s\": %s\n", act, value, why);
	return 0;
}

/* Maps the control file that the environment names, unless it is mapped. Needs
 * `starting`. A mapping before this one stays, as a call may be reading it. */
static int mapControl(void)
{
	const char *path = getenv("DEVICEKEYS_SHIM_CONTROL");
	if (path == NULL)
		path = "";
	if (strcmp(path, controlPath) == 0)
		return 1;
	if (strlen(path) >= sizeof controlPath)
		return complain("map control file", path, "its name is too long");
	struct control *c = &quiet;
	if (*path != '\0') {
		int fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			return complain("open control file", path, strerror(errno));
		struct stat st;
		void *m = MAP_FAILED;
		if (fstat(fd, &st) == 0 && st.st_size >= (off_t)sizeof *c)
			m = mmap(NULL, sizeof *c, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
		if (m == MAP_FAILED)
			return complain("map control file", path, "it is too short, or the system refused");
		c = m;
		if (load(&c->magic) != MAGIC || c->version != VERSION || c->functions != FUNCTION_COUNT)
			return complain("map control file", path, "it was made for another shim");
	}
	store(&epoch, load(&c->epoch));
	__atomic_store_n(&control, c, __ATOMIC_RELEASE);
	strcpy(controlPath, path);
	return 1;
}

static const char *const places[] = {
	"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so",
	"/usr/lib64/pkcs11/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so",
	"/usr/lib/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so",
	"/usr/local/lib64/softhsm/libsofthsm2.so", "/opt/homebrew/lib/softhsm/libsofthsm2.so",
};

static int loadReal(const char *path)
{
	void *h = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (h == NULL)
		return complain("load module", path, dlerror());
	word (*getList)(struct list **) = NULL;
	*(void **)&getList = dlsym(h, "C_GetFunctionList");
	if (getList == NULL)
		return complain("load module", path, "it has no C_GetFunctionList");
	struct list *l = NULL;
	if (getList(&l) != CKR_OK || l == NULL || l->major != 2)
		return complain("load module", path, "it gives no function list of PKCS#11 v2");
	real = l;
	return 1;
}

/* Finds and loads the real module. Needs `starting`. */
static int findReal(void)
{
	const char *path = getenv("DEVICEKEYS_SHIM_MODULE");
	if (path != NULL && *path != '\0')
		return loadReal(path);
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		glob_t g;
		int found = glob(places[i], 0, NULL, &g) == 0 && g.gl_pathc > 0;
		int loaded = found && loadReal(g.gl_pathv[0]);
		if (found)
			globfree(&g);
		if (loaded)
			return 1;
	}
	return complain("find SoftHSM", "", "it is in none of the usual places: set DEVICEKEYS_SHIM_MODULE");
}

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

/* Closes what was open when the token was lost. The real module thereby ends its logins
 * and destroys its session objects, as a token does that is pulled out. */
static void expel(struct control *c)
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

static word fail(struct control *c, int f, word code)
{
	add(&c->failed[f]);
	return code;
}

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

/* Answers the census that was asked for, if any. */
static void census(struct control *c)
{
	uint64_t asked = load(&c->asked);
	if (load(&c->told) == asked)
		return;
	pthread_mutex_lock(&counting);
	pthread_mutex_lock(&listing);
	size_t open = sessionCount;
	word slot = open > 0 ? sessions[0].slot : 0;
	pthread_mutex_unlock(&listing);
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

/* What goes before each real call: counts it, delays it, and decides whether it fails.
 * Not CKR_OK: the call isn't made, and this is its answer. *after: the answer that is to
 * take the place of the real one. */
static word enter(int f, word *after)
{
	struct control *c = __atomic_load_n(&control, __ATOMIC_ACQUIRE);
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

/* What goes after each real call. */
static word leave(int f, word answer, word after)
{
	struct control *c = __atomic_load_n(&control, __ATOMIC_ACQUIRE);
	pthread_rwlock_unlock(&calling);
	end(c, f);
	if (after == CKR_OK)
		return answer;
	return fail(c, f, after);
}

/* Counts a call that asks how long its output would be: its buffer is NULL. */
static void ask(int f, word buffer)
{
	if (buffer == 0)
		add(&__atomic_load_n(&control, __ATOMIC_ACQUIRE)->sizes[f]);
}

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
		store(&epoch, load(&__atomic_load_n(&control, __ATOMIC_ACQUIRE)->epoch));
	return leave(n_C_Initialize, rv, after);
}

static word C_Finalize(word reserved)
{
	word after, rv = enter(n_C_Finalize, &after);
	if (rv != CKR_OK)
		return rv;
	rv = ((word (*)(word))real->function[n_C_Finalize])(reserved);
	if (rv == CKR_OK)
		forget(1, 0);
	return leave(n_C_Finalize, rv, after);
}

static word C_OpenSession(word slot, word flags, word application, word notify, word *handle)
{
	word after, rv = enter(n_C_OpenSession, &after);
	if (rv != CKR_OK)
		return rv;
	struct control *c = __atomic_load_n(&control, __ATOMIC_ACQUIRE);
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

static word C_CloseSession(word handle)
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

static word C_CloseAllSessions(word slot)
{
	word after, rv = enter(n_C_CloseAllSessions, &after);
	if (rv != CKR_OK)
		return rv;
	rv = ((word (*)(word))real->function[n_C_CloseAllSessions])(slot);
	if (rv == CKR_OK)
		forget(0, slot);
	return leave(n_C_CloseAllSessions, rv, after);
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
