-- Public keys that devices have, each remembered when its first device is begun: no
-- point ever serves two. Rows of devices that were begun before this version are not
-- there. And operators' orders about keys. Programs of version 8 run on this schema:
-- what they write is still taken.

-- +goose Up
create table key_point (
    point      bytea primary key check (octet_length(point) = 32), -- SHA-256 of the uncompressed point
    record_id  bytea not null check (octet_length(record_id) = 32),
    generation bigint not null
);
grant select, insert on key_point to spp;
grant select on key_point to auditor;

alter table operator_order drop constraint operator_order_act_check,
    add constraint operator_order_act_check check (act in ('scrap', 'quarantine', 'release', 'return', 'abandon', 'swap', 'unplan',
                                                           'revoke', 'put-back', 'burn', 'generate-keys', 'import-keys'));
