/* Maps the control file. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim.h"

static struct control quiet; /* when there is no control file */
struct control *control = &quiet;
static char controlPath[4096];

int mapControl(void)
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
