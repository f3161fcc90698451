-- The bound of publishing: Postgres inserting rows of an entry's size into a table of the
-- entries' own shape, one transaction for each :batch of them. The server makes the rows
-- itself, so no client costs anything: the bytes come out of the table "payload", which has
-- :batch of them, and what has to be unique out of a sequence.
insert into bound (seq, realm, type, record_id, generation, sealed, sealed_hash, leaf_hash)
select n, 1, 1, sha256(int8send(n)), 1, sealed, sealed_hash, leaf_hash
from (select o, nextval('bound_seq') as n from generate_series(1, :batch) o) rows
join payload using (o);
