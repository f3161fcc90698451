/*
 * devicekeys_rom: what a boot ROM or firmware needs to check a Devicekeys
 * identity certificate and to open its own backup.
 *
 * C99, freestanding: no allocation, no parser, no library but the two
 * functions below and, at most, the memcpy and memset that compilers put in.
 * It implements docs/formats.md: sections 3 to 5, and of 7, 9 and 10 what is
 * said of chip keys, codes and associated data.
 *
 * HOW TO USE IT
 *
 * 1. Compile the C files of this folder (not those of test) into the ROM and
 *    define dkrom_sha256 and dkrom_p256_verify, by your crypto engine or
 *    library. No function pointer lies in memory for anyone to change.
 * 2. Put the hash of the identity-signing key into the ROM or one-time memory.
 *    `custodian setup` publishes the key as rom-key.pem, and the hash is
 *    openssl pkey -pubin -in rom-key.pem -outform DER | openssl dgst -sha256
 *    (dkrom_key_hash makes it too). The key itself, the last 65 bytes of that
 *    DER, may then lie anywhere: it is compared with the hash each time.
 * 3. At boot copy certificate and backup from flash into memory that nothing
 *    else can write, since bytes are read more than once. Then:
 *
 *        struct dkrom_device self = {
 *            chip_id, 16, rom_key, rom_key_hash, DKROM_PRODUCTION, DKROM_IMEI
 *        };
 *        struct dkrom_claims claims;
 *        uint8_t context[DKROM_CHIP_CONTEXT_SIZE], aad[DKROM_BACKUP_AAD_SIZE];
 *
 *        if (dkrom_certificate(&self, certificate, size, &claims) != DKROM_OK)
 *            halt();
 *        if (claims.generation < floor_in_fuses())
 *            halt();
 *        if (dkrom_package(package, package_size) != DKROM_BACKUP)
 *            halt();
 *        if (dkrom_manifest(&claims, manifest, manifest_size) != DKROM_OK)
 *            halt();
 *        if (dkrom_chip_context(&claims, DKROM_SEAL, context, sizeof context) != DKROM_OK)
 *            halt();
 *        if (dkrom_backup_aad(&claims, aad, sizeof aad) != DKROM_OK)
 *            halt();
 *
 *    Have the chip's engine derive the seal key, KDF 1 of the context under
 *    the chip key (section 7), and open the backup by AES-256-GCM with aad;
 *    the wrap key in the same way opens the keys inside, by AES-KW. Where in
 *    the backup manifest, nonce and ciphertext stand is section 10's and the
 *    firmware's to read; this code does not. Then check every entry against
 *    what vouches for it (section 6).
 *
 * It checks that the certificate belongs to this chip, realm and ROM key. The
 * floor, the lock and the entries are the caller's to check: they need state
 * and keys that are not here.
 *
 * KINDS OF IDENTITY, LENGTHS
 *
 * An IMEI's URN has 31 characters and an EUI's 28, so each type with each
 * length of chip ID (16, 24, 32) has one layout. A serial number's URN has 14
 * to 54. Its length is taken from the certificate's: that grows by one with
 * each character, and by two from 23 to 24, where the head of the text gets
 * its second byte. So a size has one layout or, that one in between, none;
 * all constant bytes, the head that names the length among them, are then
 * compared for that layout. One ROM takes all serial numbers of its maker.
 *
 * RESULTS
 *
 * A result has 32 bits. Any two differ in at least 14, and each differs from
 * 0, 1 and all ones in at least 10. Compare with == DKROM_OK, never for truth.
 * Inside, each check's result is kept in memory and looked at twice, loops
 * are counted, and a struct dkrom_claims carries DKROM_OK itself: functions
 * that use one refuse a struct that no certificate filled. This makes single
 * faults harmless at most places and is no more than that: whoever must
 * withstand a laboratory calls dkrom_certificate twice with a random wait
 * between, compares both claims, and has hardware that notices glitches.
 *
 * Chip ID and hashes are compared in a time that does not depend on their
 * bytes. The identity's characters are read only after the signature held.
 *
 * COSTS, measured by gcc 12.2 with -Os, without the two functions
 *
 *    Cortex-M0+   2,557 bytes of code and constants, 432 bytes of stack
 *    Cortex-M4    2,545 and 400
 *    x86-64       4,477 and 616
 *
 * Stack is that of the deepest chain, dkrom_certificate and what it calls; at
 * most 240 of it (368 on x86-64) lie below either of the two functions. A
 * struct dkrom_claims has 164 bytes. No static memory is written.
 * There is no recursion and no array of a size that is not constant.
 *
 * FILES
 *
 *    certificate.c   the chain from the key that is burned in to the claims
 *    layout.c        where things stand in a certificate, and its constant bytes
 *    identity.c      the kinds of identity
 *    claims.c        what a verified certificate says
 *    backup.c        manifest, codes, and what a backup is bound to
 *    bytes.c         bytes compared and copied
 *    internal.h      what these know of each other
 */
#ifndef DEVICEKEYS_ROM_H
#define DEVICEKEYS_ROM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef uint32_t dkrom_result;

#define DKROM_OK        UINT32_C(0x3c6da5d7)
#define DKROM_DATA      UINT32_C(0x4da4f9fc) /* of dkrom_package: an ordinary data package */
#define DKROM_BACKUP    UINT32_C(0x656412a9) /* of dkrom_package: a backup */
#define DKROM_ARGUMENT  UINT32_C(0x7a97c643) /* the caller's mistake: a null pointer, a size, unverified claims */
#define DKROM_FORM      UINT32_C(0x27ac435a) /* length or constant bytes are others */
#define DKROM_KEY       UINT32_C(0x0512bd13) /* the key is not the one burned in, or the certificate names another */
#define DKROM_CHIP      UINT32_C(0xc3e1b258) /* another chip's certificate */
#define DKROM_REALM     UINT32_C(0x38d048ec) /* made in another realm */
#define DKROM_SIGNATURE UINT32_C(0x8963dc6e) /* does not verify */
#define DKROM_CLAIMS    UINT32_C(0xccea2645) /* signed, yet no identity, time or generation as section 3 has them */
#define DKROM_MANIFEST  UINT32_C(0xde08caa1) /* not the manifest that the certificate vouches for */
#define DKROM_CRYPTO    UINT32_C(0x16332aca) /* dkrom_sha256 did not say DKROM_OK */
#define DKROM_FAULT     UINT32_C(0xd8441b56) /* two looks at one result differ: treat it as an attack */

/* Numbers of realms and of types of identity, section 1. */
#define DKROM_DEVELOPMENT 1
#define DKROM_PRODUCTION  2
#define DKROM_IMEI   1
#define DKROM_EUI48  2
#define DKROM_EUI64  3
#define DKROM_SERIAL 4

/* Sizes in bytes. */
#define DKROM_POINT_SIZE 65
#define DKROM_SIGNATURE_SIZE 64
#define DKROM_CHIP_CONTEXT_SIZE 50
#define DKROM_BACKUP_AAD_SIZE 71
#define DKROM_MAX_CERTIFICATE 512
#define DKROM_MAX_MANIFEST 32768
#define DKROM_MAX_PACKAGE 65536
#define DKROM_MAX_IDENTITY 43 /* a serial number: 10 digits, '-', 32 characters */

struct dkrom_bytes {
	const uint8_t *bytes;
	size_t size;
};

/* ---- What the integrator brings. */

/* dkrom_sha256 hashes count pieces, one after the other, and returns DKROM_OK or anything else. */
dkrom_result dkrom_sha256(const struct dkrom_bytes *pieces, size_t count, uint8_t *digest);

/*
 * dkrom_p256_verify verifies an ECDSA signature r || s over a digest of 32
 * bytes with the point 04 || x || y. It returns DKROM_OK if and only if the
 * point is on the curve, r and s are in 1 .. n-1, and the signature verifies.
 * Like the rest of Devicekeys it takes s and n-s: a certificate's identity is
 * its claims, not its signature.
 */
dkrom_result dkrom_p256_verify(const uint8_t *point, const uint8_t *digest, const uint8_t *signature);

/* ---- What it gets. */

/* struct dkrom_device is what the ROM knows of itself. */
struct dkrom_device {
	const uint8_t *chip_id;      /* from read-only storage, not all zero */
	size_t chip_id_size;         /* 16, 24 or 32 */
	const uint8_t *rom_key;      /* point of the identity-signing key, 65 bytes */
	const uint8_t *rom_key_hash; /* SHA-256 of its SubjectPublicKeyInfo, 32 bytes, read-only */
	uint8_t realm;
	uint8_t identity_type;       /* of the product line */
};

/* struct dkrom_claims is what a verified certificate says. All zero after a refusal. */
struct dkrom_claims {
	dkrom_result verified;                 /* DKROM_OK */
	uint8_t identity_type, realm;
	uint32_t issued_at;                    /* seconds since 1970 */
	uint32_t generation;                   /* from 1 */
	size_t identity_size, chip_id_size;
	char identity[DKROM_MAX_IDENTITY + 1]; /* canonical text (section 3), zero after it */
	uint8_t chip_id[32];
	uint8_t manifest[32];                  /* SHA-256 of the manifest */
	uint8_t claims_hash[32];               /* what backup and chip keys are bound to */
};

/* dkrom_key_hash gives the hash that is burned in: of point, 65 bytes, into hash, 32 bytes. */
dkrom_result dkrom_key_hash(const uint8_t *point, uint8_t *hash);

/* dkrom_certificate verifies a certificate for this device and fills claims. */
dkrom_result dkrom_certificate(const struct dkrom_device *device, const uint8_t *certificate, size_t size, struct dkrom_claims *claims);

/* dkrom_manifest tells whether these bytes are the manifest that the certificate vouches for. */
dkrom_result dkrom_manifest(const struct dkrom_claims *claims, const uint8_t *manifest, size_t size);

/*
 * dkrom_package tells a backup (DKROM_BACKUP) from an ordinary data package
 * (DKROM_DATA) by its first eight bytes; anything else is DKROM_FORM. The code
 * is authenticated by dkrom_backup_aad, not here.
 */
dkrom_result dkrom_package(const uint8_t *package, size_t size);

typedef enum { DKROM_WRAP = 0x5a3c, DKROM_SEAL = 0x25c3 } dkrom_use;

/* dkrom_chip_context gives the context of the chip wrap or chip seal key, section 7; size is DKROM_CHIP_CONTEXT_SIZE. */
dkrom_result dkrom_chip_context(const struct dkrom_claims *claims, dkrom_use use, uint8_t *out, size_t size);

/* dkrom_backup_aad gives AES-GCM's associated data for the backup (Enc_structure, section 10); size is DKROM_BACKUP_AAD_SIZE. */
dkrom_result dkrom_backup_aad(const struct dkrom_claims *claims, uint8_t *out, size_t size);

#ifdef __cplusplus
}
#endif

#endif
