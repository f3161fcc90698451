-- +goose Up

-- Certificates that product lines publish for everyone (type 5), and a directory
-- of them by identity, for those whose lines opt into that too.
alter table entry drop constraint entry_type_check, drop constraint entry_form,
    add constraint entry_type_check check (type between 1 and 5),
    add constraint entry_form check (
        (type in (1, 2) and statement is null) or
        (type in (3, 4) and statement is not null and sealed is null) or
        (type = 5 and statement is null and sealed is not null));

create table directory (
    -- The identity as a URN. One identity may have had several devices, and
    -- one device several generations: the entry accepted last counts.
    urn text   collate "C" not null check (octet_length(urn) between 1 and 128),
    seq bigint primary key check (seq >= 0) -- the entry's
);
create index directory_urn on directory (urn, seq);
create trigger directory_stands before update or delete or truncate on directory
    for each statement execute function refuse_change();
