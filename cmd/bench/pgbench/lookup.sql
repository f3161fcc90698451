-- The bound of looking up: pgbench's own select-only test, with the registry's table and its
-- key. Record n of the benchmark has the SHA-256 of n as its id.
\set n random(0, :records - 1)
select seq, realm, type, record_id, generation, sealed, sealed_hash, statement, leaf_hash
from entry where record_id = sha256(int8send(:n)) order by generation desc, seq desc limit 1;
