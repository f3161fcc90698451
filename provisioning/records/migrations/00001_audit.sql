-- The audit log (package audit). It stands in this database so that an entry
-- is committed in the transaction that licenses the use of a key. Nobody
-- writes these tables directly: audit_append and audit_keep_head are the only
-- doors, and triggers hold the log's history against its owner's slips too.
-- A superuser passes triggers; against one there are the signed heads.

-- +goose Up
create table audit_entry (
    seq      bigint primary key check (seq > 0),
    at       timestamptz not null,
    body     bytea not null check (octet_length(body) between 1 and 4096),
    previous bytea not null check (octet_length(previous) = 32),
    hash     bytea not null check (octet_length(hash) = 32)
);

-- One row: the end of the chain. Locking it puts appenders in a line.
create table audit_head_row (
    one  boolean primary key default true check (one),
    seq  bigint not null,
    at   timestamptz not null,
    hash bytea not null check (octet_length(hash) = 32)
);
insert into audit_head_row (seq, at, hash) values (0, '1970-01-01 00:00:00+00', decode(repeat('00', 32), 'hex'));

create table audit_signed_head (
    seq       bigint primary key references audit_entry,
    statement bytea not null check (octet_length(statement) between 1 and 1024),
    at        timestamptz not null default clock_timestamp()
);

-- +goose StatementBegin
create function audit_refuse() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    raise exception 'the audit log is append-only: % of % is refused', tg_op, tg_table_name
        using errcode = 'insufficient_privilege';
end $$;
-- +goose StatementEnd

-- The head moves by one entry at a time, and only onto that entry.
-- +goose StatementBegin
create function audit_step() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if new.seq <> old.seq + 1 or not exists (
        select from public.audit_entry e where e.seq = new.seq and e.previous = old.hash and e.hash = new.hash)
    then
        raise exception 'the audit log is append-only: its head moves by one entry at a time'
            using errcode = 'insufficient_privilege';
    end if;
    return new;
end $$;
-- +goose StatementEnd

create trigger audit_entry_kept before update or delete or truncate on audit_entry
    for each statement execute function audit_refuse();
create trigger audit_signed_head_kept before update or delete or truncate on audit_signed_head
    for each statement execute function audit_refuse();
create trigger audit_head_row_kept before insert or delete or truncate on audit_head_row
    for each statement execute function audit_refuse();
create trigger audit_head_row_steps before update on audit_head_row
    for each row execute function audit_step();

-- audit_append adds an entry and gives its number. It holds the head's lock
-- until the caller's transaction ends, so it is called last.
-- hash = sha256(previous || seq, 8 bytes || time in microseconds, 8 bytes || body)
-- +goose StatementBegin
create function audit_append(body bytea) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    head   public.audit_head_row;
    moment timestamptz;
    link   bytea;
begin
    if body is null or octet_length(body) not between 1 and 4096 then
        raise exception 'an audit entry has 1 to 4096 bytes, not %', octet_length(body)
            using errcode = 'check_violation';
    end if;
    select * into strict head from public.audit_head_row for update;
    -- The log's time never runs backwards, whatever the server's clock does.
    moment := greatest(clock_timestamp(), head.at);
    link := sha256(head.hash || int8send(head.seq + 1) || int8send((extract(epoch from moment) * 1000000)::bigint) || body);
    insert into public.audit_entry (seq, at, body, previous, hash) values (head.seq + 1, moment, body, head.hash, link);
    update public.audit_head_row set seq = head.seq + 1, at = moment, hash = link;
    return head.seq + 1;
end $$;
-- +goose StatementEnd

-- audit_keep_head stores the signature over the log up to an entry. It knows
-- no key and checks none: who reads heads does.
-- +goose StatementBegin
create function audit_keep_head(seq bigint, hash bytea, statement bytea) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if not exists (select from public.audit_entry e where e.seq = $1 and e.hash = $2) then
        raise exception 'the audit log has no entry % with this hash', $1 using errcode = 'check_violation';
    end if;
    insert into public.audit_signed_head (seq, statement) values ($1, $3) on conflict do nothing;
end $$;
-- +goose StatementEnd

revoke all on function audit_append(bytea), audit_keep_head(bigint, bytea, bytea), audit_refuse(), audit_step() from public;
grant execute on function audit_append(bytea), audit_keep_head(bigint, bytea, bytea) to spp, auditor, custodian;
grant select on audit_head_row to spp, auditor, custodian;
grant select on audit_entry, audit_signed_head to auditor;
