/*
 * What the parts of devicekeys_rom know of each other; an integrator includes
 * devicekeys_rom.h alone. All names that a linker sees begin with dkrom_, or,
 * for the parts among themselves, with dkromi_.
 */
#ifndef DEVICEKEYS_ROM_INTERNAL_H
#define DEVICEKEYS_ROM_INTERNAL_H

#include "devicekeys_rom.h"

/* ---- bytes.c */

/*
 * dkromi_same compares in a time that depends on n only, and gives otherwise where
 * bytes differ. What it found is read from memory twice, and the count of
 * compared bytes with it, so that neither a skipped branch nor a loop that
 * was left early makes it say DKROM_OK.
 */
dkrom_result dkromi_same(const uint8_t *a, const uint8_t *b, size_t n, dkrom_result otherwise);

/* dkromi_copy copies n bytes that do not overlap. */
void dkromi_copy(uint8_t *to, const uint8_t *from, size_t n);

/* ---- layout.c */

/*
 * Where things stand in a certificate (§5). Up to the subject's head, and
 * from the subject's end on, distances are constant but for the chip ID:
 *
 *   0   d2 84 58 37 a3 01 26 04 48   tag, array, protected header
 *   9   key id, 8
 *  17   10 78 27 "application/…"     content type
 *  59   a0 58 n                      unprotected header, head of the payload
 *  62   a6 02 head subject           sub
 *       06 1a time, 4                iat
 *       19 01 00 head 01 chip ID     ueid
 *       3a 00 01 00 00 realm, 1
 *       3a 00 01 00 01 44 generation, 4
 *       3a 00 01 00 02 58 20 manifest, 32
 *       58 40 signature, 64
 */
enum {
	PROTECTED = 2,      /* the protected header with its head */
	PROTECTED_END = 59,
	KEY_ID = 9,
	KEY_ID_SIZE = 8,
	TYPE_SIZE = 42,
	PAYLOAD_HEAD = 60,
	PAYLOAD = 62,
	SUBJECT_HEAD = 64,
	FRAMING = 195,      /* all but subject, chip ID and the heads of both */
	SIGNATURE_HEAD = 2, /* 58 40 */
	SHORT = 24          /* first length whose CBOR head has two bytes */
};

struct dkromi_layout {
	size_t subject, subject_size, time, chip_id, realm, generation, manifest, signature;
};

/* dkromi_subject_fits tells whether an identity of the type has URNs of that size (§3). */
dkrom_result dkromi_subject_fits(uint8_t identity_type, size_t size);

/*
 * dkromi_find_layout computes the offsets from the certificate's size alone: it
 * grows by one with every character of the subject, and by one more where
 * the subject's head does, so a size has one layout or none.
 */
dkrom_result dkromi_find_layout(const struct dkrom_device *device, size_t size, struct dkromi_layout *l);

/* dkromi_constant_bytes compares every byte that no certificate of the layout may have otherwise. */
dkrom_result dkromi_constant_bytes(const uint8_t *certificate, const struct dkromi_layout *l, const uint8_t *key_hash, size_t chip_id_size);

/* ---- identity.c */

/* dkromi_identity checks the URN of an identity of the type and puts its canonical text into out (§3). */
dkrom_result dkromi_identity(uint8_t identity_type, const uint8_t *urn, size_t size, struct dkrom_claims *out);

/* ---- claims.c */

/* dkromi_wipe leaves a claims set that every function refuses. */
void dkromi_wipe(struct dkrom_claims *claims);

/* dkromi_read_claims turns what the signature vouches for into fields. */
dkrom_result dkromi_read_claims(const struct dkrom_device *device, const uint8_t *certificate, const struct dkromi_layout *l, struct dkrom_claims *out);

#endif
