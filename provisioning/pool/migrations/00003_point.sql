-- Public keys that wait: no point waits with two identities, or for two entries.
-- Null: a symmetric key, or a row of version 2, which a program of that version
-- still writes.

-- +goose Up
alter table waiting_key add column point bytea check (octet_length(point) = 32); -- SHA-256 of the uncompressed point
create unique index waiting_key_point on waiting_key (point) where point is not null;
