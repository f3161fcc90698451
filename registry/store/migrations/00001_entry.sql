-- +goose Up

-- The registry: entries, numbered without gaps, and never changed.
create table entry (
    -- Place in the registry, from 0. Given by the sequencer, not by a sequence:
    -- one of those leaves gaps where a transaction is rolled back.
    seq         bigint      primary key check (seq >= 0),
    -- 1 development, 2 production. A database holds one realm only.
    realm       smallint    not null check (realm in (1, 2)),
    -- 1 register, 2 supersede, 3 scrap, 4 erase.
    type        smallint    not null check (type between 1 and 4),
    record_id   bytea       not null check (octet_length(record_id) = 32),
    generation  bigint      not null check (generation between 1 and 4294967295),
    -- The sealed record. Null in scrap and erase entries, and after an erasure.
    sealed      bytea       check (octet_length(sealed) between 1 and 65535),
    -- SHA-256 of the sealed record (of nothing, where there is none): the leaf
    -- can be made from the row after the record is gone.
    sealed_hash bytea       not null check (octet_length(sealed_hash) = 32),
    -- By the identity-signing key, in scrap and erase entries.
    statement   bytea       check (octet_length(statement) between 1 and 512),
    -- SHA-256(0x00 || leaf), RFC 6962.
    leaf_hash   bytea       not null check (octet_length(leaf_hash) = 32),
    accepted    timestamptz not null default now(),
    constraint entry_once unique (record_id, generation, type),
    constraint entry_form check (
        (type in (1, 2) and statement is null) or
        (type in (3, 4) and statement is not null and sealed is null))
);

-- How many entries there are. The transaction that inserts rows moves it, from
-- the value its writer knows: of two writers one loses and stops.
create table head (
    id   smallint primary key check (id = 1),
    size bigint   not null check (size >= 0)
);
insert into head (id, size) values (1, 0);

-- Privileges keep every service from changing what stands. The triggers keep the
-- owner, and a superuser in a hurry, from doing it by accident; against one who
-- means it only the log with its witnesses helps.
-- +goose StatementBegin
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'the registry is append-only: % on % is refused', lower(tg_op), tg_table_name
        using errcode = 'insufficient_privilege';
end
$$;
-- +goose StatementEnd
create trigger entry_stands before update or delete or truncate on entry
    for each statement execute function refuse_change();
create trigger head_stands before insert or delete or truncate on head
    for each statement execute function refuse_change();

-- +goose StatementBegin
create function refuse_shrinking() returns trigger language plpgsql as $$
begin
    raise exception 'the registry is append-only: its head does not go from % to %', old.size, new.size
        using errcode = 'insufficient_privilege';
end
$$;
-- +goose StatementEnd
create trigger head_grows before update on head
    for each row when (new.size <= old.size or new.id <> old.id) execute function refuse_shrinking();
