// What of Cryptoki (PKCS #11 v2.40) is called with the size of its answer known: see direct.go.
// Types as in the specification's section 3, for 64-bit systems without packed structures.
#ifndef DEVICEKEYS_DIRECT_H
#define DEVICEKEYS_DIRECT_H

#include <stddef.h>

typedef unsigned long ck_ulong;
typedef unsigned char ck_byte;
typedef ck_ulong ck_rv;

typedef struct { ck_ulong type; void *parameter; ck_ulong parameter_len; } ck_mechanism;
typedef struct { ck_ulong type; void *value; ck_ulong value_len; } ck_attribute;
typedef struct { ck_byte *iv; ck_ulong iv_len, iv_bits; ck_byte *aad; ck_ulong aad_len, tag_bits; } ck_gcm_params;

typedef ck_rv (*ck_init)(ck_ulong session, ck_mechanism *, ck_ulong key);
typedef ck_rv (*ck_crypt)(ck_ulong session, ck_byte *in, ck_ulong in_len, ck_byte *out, ck_ulong *out_len);

// CK_FUNCTION_LIST up to the last function used. Those between have no name here.
typedef struct {
	ck_byte version[2];
	void *initialize_to_get_object_size[24];
	ck_rv (*get_attribute_value)(ck_ulong session, ck_ulong object, ck_attribute *, ck_ulong count);
	void *set_attribute_value_to_find_objects_final[4];
	ck_init encrypt_init;
	ck_crypt encrypt;
	void *encrypt_update_and_final[2];
	ck_init decrypt_init;
	ck_crypt decrypt;
	void *decrypt_update_to_digest_final[7];
	ck_init sign_init;
	ck_crypt sign;
	void *sign_update_to_generate_key_pair[16];
	ck_rv (*wrap_key)(ck_ulong session, ck_mechanism *, ck_ulong kek, ck_ulong key, ck_byte *out, ck_ulong *out_len);
} ck_functions;

_Static_assert(offsetof(ck_functions, wrap_key) == 61 * sizeof(void *), "C_WrapKey is the 61st function");

// dk_answer is what a call gave: its code, the size of the answer, and whether the
// operation was begun (C_…Init returned CKR_OK).
typedef struct { ck_rv rv; ck_ulong len; int begun; } dk_answer;

// dk_inner is one attribute of an attribute array: none of ours is longer than CK_ULONG.
typedef struct { ck_ulong type, len; ck_byte value[sizeof(ck_ulong)]; } dk_inner;
enum { DK_INNER_MAX = 8 };

const ck_functions *dk_open(const char *module);
dk_answer dk_sign(const ck_functions *, ck_ulong session, ck_ulong mechanism, ck_ulong key,
	ck_byte *msg, ck_ulong msg_len, ck_byte *out, ck_ulong out_len);
dk_answer dk_gcm(const ck_functions *, int seal, ck_ulong session, ck_ulong key, ck_byte *iv, ck_ulong iv_len,
	ck_byte *aad, ck_ulong aad_len, ck_byte *in, ck_ulong in_len, ck_byte *out, ck_ulong out_len);
dk_answer dk_wrap(const ck_functions *, ck_ulong session, ck_ulong mechanism, ck_ulong kek, ck_ulong key,
	ck_byte *out, ck_ulong out_len);
dk_answer dk_attribute(const ck_functions *, ck_ulong session, ck_ulong object, ck_ulong type, ck_byte *out, ck_ulong out_len);
dk_answer dk_inner_values(const ck_functions *, ck_ulong session, ck_ulong object, ck_ulong type, dk_inner *out, ck_ulong count);

#endif
