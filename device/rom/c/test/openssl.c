/* The two functions an integrator brings, by OpenSSL's libcrypto: what the tests run with, and an example. */

#include "../devicekeys_rom.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/params.h>

dkrom_result dkrom_sha256(const struct dkrom_bytes *pieces, size_t count, uint8_t *digest)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	unsigned int n = 0;
	size_t i;
	int ok = ctx != NULL && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1;

	for (i = 0; ok && i < count; i++)
		ok = EVP_DigestUpdate(ctx, pieces[i].bytes, pieces[i].size) == 1;
	ok = ok && EVP_DigestFinal_ex(ctx, digest, &n) == 1 && n == 32;
	EVP_MD_CTX_free(ctx);
	return ok ? DKROM_OK : DKROM_CRYPTO;
}

/* public_key refuses points off the curve; OpenSSL does so in fromdata. */
static EVP_PKEY *public_key(const uint8_t *point)
{
	static char group[] = "P-256";
	uint8_t copy[DKROM_POINT_SIZE];
	OSSL_PARAM params[3];
	EVP_PKEY *key = NULL;
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
	size_t i;

	for (i = 0; i < sizeof copy; i++)
		copy[i] = point[i];
	params[0] = OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group, 0);
	params[1] = OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, copy, sizeof copy);
	params[2] = OSSL_PARAM_construct_end();
	if (ctx == NULL || EVP_PKEY_fromdata_init(ctx) != 1 || EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_PUBLIC_KEY, params) != 1)
		key = NULL;
	EVP_PKEY_CTX_free(ctx);
	return key;
}

/* der gives the signature in the form that OpenSSL reads; the caller frees it. */
static int der(const uint8_t *signature, uint8_t **out)
{
	ECDSA_SIG *s = ECDSA_SIG_new();
	BIGNUM *r = BN_bin2bn(signature, 32, NULL), *v = BN_bin2bn(signature + 32, 32, NULL);
	int n = -1;

	if (s == NULL || r == NULL || v == NULL || ECDSA_SIG_set0(s, r, v) != 1) {
		BN_free(r);
		BN_free(v);
	} else {
		n = i2d_ECDSA_SIG(s, out);
	}
	ECDSA_SIG_free(s);
	return n;
}

dkrom_result dkrom_p256_verify(const uint8_t *point, const uint8_t *digest, const uint8_t *signature)
{
	dkrom_result result = DKROM_SIGNATURE;
	EVP_PKEY *key = public_key(point);
	EVP_PKEY_CTX *ctx = key == NULL ? NULL : EVP_PKEY_CTX_new(key, NULL);
	uint8_t *sig = NULL;
	int n = der(signature, &sig);

	if (ctx != NULL && n > 0 && EVP_PKEY_verify_init(ctx) == 1 && EVP_PKEY_verify(ctx, sig, (size_t)n, digest, 32) == 1)
		result = DKROM_OK;
	OPENSSL_free(sig);
	EVP_PKEY_CTX_free(ctx);
	EVP_PKEY_free(key);
	return result;
}
