/*
 * The test program: answers length-prefixed requests on stdin until it ends,
 * one answer for each on stdout, so that one process does thousands of cases.
 *
 *   request   length (4, big endian), op (1), fields, each with its length (4)
 *   answer    length (4), result (4), then what the op gives
 *
 *   'V'  device (realm, identity type), chip ID, point, key hash, certificate
 *        -> claims
 *   'M'  device, chip ID, point, key hash, certificate, manifest: 'V', then the manifest
 *   'S'  the same as 'V' -> wrap context, seal context, associated data
 *   'P'  package
 *   'H'  point -> key hash
 *   'T'  nothing: what can only be tried in C
 *
 * Every field is in memory of exactly its size, so that the sanitizer sees a
 * read beyond it.
 */

#include "../devicekeys_rom.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_REQUEST = 1 << 20, MAX_FIELDS = 8 };

struct field {
	uint8_t *bytes;
	size_t size;
};

static uint8_t answer[1024];
static size_t answered;

static void fail(const char *what)
{
	fprintf(stderr, "driver: %s\n", what);
	exit(2);
}

static void give(const void *bytes, size_t n)
{
	if (n > sizeof answer - answered)
		fail("answer too long");
	memcpy(answer + answered, bytes, n);
	answered += n;
}

static void give32(size_t v)
{
	const uint8_t b[4] = { (uint8_t)(v >> 24), (uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v };

	give(b, sizeof b);
}

static size_t get32(const uint8_t *b)
{
	return (size_t)b[0] << 24 | (size_t)b[1] << 16 | (size_t)b[2] << 8 | (size_t)b[3];
}

static dkrom_result certificate(const struct field *f, struct dkrom_claims *claims)
{
	struct dkrom_device device;

	if (f[0].size != 2 || f[2].size != DKROM_POINT_SIZE || f[3].size != 32)
		fail("device, point or hash of another size");
	device.realm = f[0].bytes[0];
	device.identity_type = f[0].bytes[1];
	device.chip_id = f[1].bytes;
	device.chip_id_size = f[1].size;
	device.rom_key = f[2].bytes;
	device.rom_key_hash = f[3].bytes;
	memset(claims, 0xaa, sizeof *claims);
	return dkrom_certificate(&device, f[4].bytes, f[4].size, claims);
}

static void give_claims(const struct dkrom_claims *c)
{
	give(&c->identity_type, 1);
	give(&c->realm, 1);
	give32(c->issued_at);
	give32(c->generation);
	give(c->manifest, 32);
	give(c->claims_hash, 32);
	give32(c->chip_id_size);
	give(c->chip_id, c->chip_id_size);
	give(c->identity, strlen(c->identity));
	if (strlen(c->identity) != c->identity_size)
		fail("identity's size is not its length");
}

/* must_be_zero: nothing of a refused certificate is left. */
static void must_be_zero(const struct dkrom_claims *c)
{
	static const struct dkrom_claims zero;

	if (c->verified != 0 || c->identity_type != 0 || c->realm != 0 || c->issued_at != 0 || c->generation != 0 ||
	    c->identity_size != 0 || c->chip_id_size != 0 || memcmp(c->identity, zero.identity, sizeof c->identity) != 0 ||
	    memcmp(c->chip_id, zero.chip_id, 32) != 0 || memcmp(c->manifest, zero.manifest, 32) != 0 ||
	    memcmp(c->claims_hash, zero.claims_hash, 32) != 0)
		fail("claims of a refused certificate are not zero");
}

static void contexts(const struct dkrom_claims *c)
{
	uint8_t wrap[DKROM_CHIP_CONTEXT_SIZE], seal[DKROM_CHIP_CONTEXT_SIZE], aad[DKROM_BACKUP_AAD_SIZE];

	if (dkrom_chip_context(c, DKROM_WRAP, wrap, sizeof wrap) != DKROM_OK ||
	    dkrom_chip_context(c, DKROM_SEAL, seal, sizeof seal) != DKROM_OK || dkrom_backup_aad(c, aad, sizeof aad) != DKROM_OK)
		fail("contexts refused");
	give(wrap, sizeof wrap);
	give(seal, sizeof seal);
	give(aad, sizeof aad);
}

static unsigned int distance(dkrom_result a, dkrom_result b)
{
	dkrom_result d = a ^ b;
	unsigned int n = 0;

	for (; d != 0; d &= d - 1)
		n++;
	return n;
}

/* self_test tries what no request can bring about: null pointers, sizes of output, claims that are not verified. */
static dkrom_result self_test(void)
{
	static const dkrom_result codes[] = {
		DKROM_OK, DKROM_DATA, DKROM_BACKUP, DKROM_ARGUMENT, DKROM_FORM, DKROM_KEY, DKROM_CHIP, DKROM_REALM,
		DKROM_SIGNATURE, DKROM_CLAIMS, DKROM_MANIFEST, DKROM_CRYPTO, DKROM_FAULT
	};
	static const dkrom_result common[] = { 0, 1, UINT32_C(0xffffffff) };
	uint8_t bytes[DKROM_BACKUP_AAD_SIZE + 1] = { 1 };
	struct dkrom_claims claims, unverified;
	struct dkrom_device device = { bytes, 16, bytes, bytes, DKROM_PRODUCTION, DKROM_IMEI };
	const struct dkrom_device whole = device;
	size_t i, j;

	for (i = 0; i < sizeof codes / sizeof codes[0]; i++) {
		for (j = 0; j < i; j++)
			if (distance(codes[i], codes[j]) < 14)
				fail("two results are too near");
		for (j = 0; j < 3; j++)
			if (distance(codes[i], common[j]) < 10)
				fail("a result is too near to 0, 1 or all ones");
	}
	memset(&claims, 0, sizeof claims);
	claims.verified = DKROM_OK;
	memset(&unverified, 0, sizeof unverified);
	unverified.verified = 1;
#define REFUSED(call) do { if ((call) != DKROM_ARGUMENT) fail("took " #call); } while (0)
	REFUSED(dkrom_certificate(NULL, bytes, 1, &claims));
	claims.verified = DKROM_OK;
	REFUSED(dkrom_certificate(&device, NULL, 245, &claims));
	claims.verified = DKROM_OK;
	REFUSED(dkrom_certificate(&device, bytes, 1, NULL));
	device.chip_id = NULL;
	REFUSED(dkrom_certificate(&device, bytes, 1, &claims));
	device = whole;
	device.rom_key = NULL;
	REFUSED(dkrom_certificate(&device, bytes, 1, &claims));
	device = whole;
	device.rom_key_hash = NULL;
	REFUSED(dkrom_certificate(&device, bytes, 1, &claims));
	claims.verified = DKROM_OK;
	REFUSED(dkrom_key_hash(NULL, bytes));
	REFUSED(dkrom_key_hash(bytes, NULL));
	REFUSED(dkrom_package(NULL, 8));
	REFUSED(dkrom_manifest(NULL, bytes, 1));
	REFUSED(dkrom_manifest(&unverified, bytes, 1));
	REFUSED(dkrom_manifest(&claims, NULL, 1));
	REFUSED(dkrom_manifest(&claims, bytes, 0));
	REFUSED(dkrom_manifest(&claims, bytes, DKROM_MAX_MANIFEST + 1));
	REFUSED(dkrom_chip_context(NULL, DKROM_WRAP, bytes, DKROM_CHIP_CONTEXT_SIZE));
	REFUSED(dkrom_chip_context(&unverified, DKROM_WRAP, bytes, DKROM_CHIP_CONTEXT_SIZE));
	REFUSED(dkrom_chip_context(&claims, DKROM_WRAP, NULL, DKROM_CHIP_CONTEXT_SIZE));
	REFUSED(dkrom_chip_context(&claims, DKROM_WRAP, bytes, DKROM_CHIP_CONTEXT_SIZE - 1));
	REFUSED(dkrom_chip_context(&claims, DKROM_WRAP, bytes, DKROM_CHIP_CONTEXT_SIZE + 1));
	REFUSED(dkrom_chip_context(&claims, (dkrom_use)1, bytes, DKROM_CHIP_CONTEXT_SIZE));
	REFUSED(dkrom_backup_aad(NULL, bytes, DKROM_BACKUP_AAD_SIZE));
	REFUSED(dkrom_backup_aad(&unverified, bytes, DKROM_BACKUP_AAD_SIZE));
	REFUSED(dkrom_backup_aad(&claims, NULL, DKROM_BACKUP_AAD_SIZE));
	REFUSED(dkrom_backup_aad(&claims, bytes, DKROM_BACKUP_AAD_SIZE - 1));
	REFUSED(dkrom_backup_aad(&claims, bytes, DKROM_BACKUP_AAD_SIZE + 1));
#undef REFUSED
	return DKROM_OK;
}

static dkrom_result run(uint8_t op, const struct field *f, size_t n)
{
	struct dkrom_claims claims;
	uint8_t hash[32];
	dkrom_result r;

	if (op == 'T' && n == 0)
		return self_test();
	if (op == 'P' && n == 1)
		return dkrom_package(f[0].bytes, f[0].size);
	if (op == 'H' && n == 1 && f[0].size == DKROM_POINT_SIZE) {
		r = dkrom_key_hash(f[0].bytes, hash);
		if (r == DKROM_OK)
			give(hash, sizeof hash);
		return r;
	}
	if ((op != 'V' && op != 'S' && op != 'M') || n != (op == 'M' ? 6U : 5U))
		fail("unknown request");
	r = certificate(f, &claims);
	if (r != DKROM_OK) {
		must_be_zero(&claims);
		return r;
	}
	if (op == 'M')
		return dkrom_manifest(&claims, f[5].bytes, f[5].size);
	if (op == 'S')
		contexts(&claims);
	else
		give_claims(&claims);
	return r;
}

int main(void)
{
	uint8_t head[4];

	while (fread(head, 1, sizeof head, stdin) == sizeof head) {
		struct field f[MAX_FIELDS];
		size_t size = get32(head), at = 1, n = 0, i, total;
		uint8_t *request;
		dkrom_result r;

		if (size < 1 || size > MAX_REQUEST || (request = malloc(size)) == NULL || fread(request, 1, size, stdin) != size)
			fail("request cut short");
		while (at < size) {
			size_t length = 0;

			if (n == MAX_FIELDS || size - at < 4 || (length = get32(request + at)) > size - at - 4)
				fail("request's fields do not fit");
			f[n].size = length;
			if ((f[n].bytes = malloc(length > 0 ? length : 1)) == NULL)
				fail("out of memory");
			memcpy(f[n].bytes, request + at + 4, length);
			at += 4 + length;
			n++;
		}
		answered = 8;
		r = run(request[0], f, n);
		total = answered;
		answered = 0;
		give32(total - 4);
		give32(r);
		if (fwrite(answer, 1, total, stdout) != total || fflush(stdout) != 0)
			fail("answer not taken");
		for (i = 0; i < n; i++)
			free(f[i].bytes);
		free(request);
	}
	return 0;
}
