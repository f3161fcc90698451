-- Certificates of devices' key pairs. Programs of version 5 run on this schema:
-- what they write is still taken.

-- +goose Up
alter table device add column x509 bytea not null default '\x80' -- det-CBOR array of DER; empty
    check (octet_length(x509) between 1 and 32768);
alter table device alter column x509 set storage external;
