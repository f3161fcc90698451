/* The functions of PKCS#11 v2.40. */
#ifndef SHIM_FUNCTIONS_H
#define SHIM_FUNCTIONS_H

/* CK_RV, CK_ULONG, handles and pointers are one machine word each; only the boolean of
 * C_GetSlotList is smaller, and so that function is written out. */
typedef unsigned long word;

/*
 * The functions in the order of the function list (PKCS#11 v2.40, pkcs11f.h), with the
 * number of their parameters. Those marked W are written out, the others are only
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

#endif
