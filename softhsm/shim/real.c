/* Finds and loads the module that the shim stands before. */
#include <dlfcn.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>

#include "shim.h"

struct list *real;
pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;

int complain(const char *act, const char *value, const char *why)
{
	fprintf(stderr, "PKCS#11 shim: %s \"%s\": %s\n", act, value, why);
	return 0;
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

int findReal(void)
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
