CREATE SCHEMA kinds; GRANT USAGE ON SCHEMA kinds TO PUBLIC;
-- Operators and what indexes need of them.
CREATE FUNCTION kinds.compare(text, text) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT length($1) - length($2)';
CREATE FUNCTION kinds.shorter(text, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT length($1) < length($2)';
CREATE FUNCTION kinds.not_longer(text, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT length($1) <= length($2)';
CREATE FUNCTION kinds.as_long(text, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT length($1) = length($2)';
CREATE FUNCTION kinds.longer(text, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT length($1) > length($2)';
CREATE FUNCTION kinds.not_shorter(text, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT length($1) >= length($2)';
COMMENT ON FUNCTION kinds.compare(text, text) IS 'of two';
CREATE OPERATOR kinds.<# (leftarg = text, rightarg = text, function = kinds.shorter, commutator = OPERATOR(kinds.>#),
  negator = OPERATOR(kinds.>=#), restrict = scalarltsel);
CREATE OPERATOR kinds.<=# (leftarg = text, rightarg = text, function = kinds.not_longer);
CREATE OPERATOR kinds.=# (leftarg = text, rightarg = text, function = kinds.as_long, commutator = OPERATOR(kinds.=#), merges);
CREATE OPERATOR kinds.># (leftarg = text, rightarg = text, function = kinds.longer);
CREATE OPERATOR kinds.>=# (leftarg = text, rightarg = text, function = kinds.not_shorter);
COMMENT ON OPERATOR kinds.<# (text, text) IS 'shorter';
CREATE OPERATOR FAMILY kinds.by_length USING btree;
COMMENT ON OPERATOR FAMILY kinds.by_length USING btree IS 'a family';
CREATE OPERATOR CLASS kinds.by_length_ops FOR TYPE text USING btree FAMILY kinds.by_length AS
  OPERATOR 1 kinds.<#, OPERATOR 2 kinds.<=#, OPERATOR 3 kinds.=#, OPERATOR 4 kinds.>=#, OPERATOR 5 kinds.>#,
  FUNCTION 1 kinds.compare(text, text);
COMMENT ON OPERATOR CLASS kinds.by_length_ops USING btree IS 'a class';
CREATE OPERATOR FAMILY kinds.loose USING hash;
ALTER OPERATOR FAMILY kinds.loose USING hash ADD OPERATOR 1 = (int4, int4), FUNCTION 1 (int4, int4) hashint4(int4);
-- Functions.
CREATE AGGREGATE kinds.longest(text) (sfunc = textcat, stype = text); COMMENT ON AGGREGATE kinds.longest(text) IS 'glued';
CREATE FUNCTION kinds.sum_of(a int, VARIADIC b int[] DEFAULT '{}', OUT c int) LANGUAGE sql PARALLEL SAFE LEAKPROOF AS 'SELECT 1';
CREATE PROCEDURE kinds.make(INOUT n int) LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
COMMENT ON PROCEDURE kinds.make(int) IS 'a procedure';
CREATE FUNCTION kinds.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' COST 9 AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION kinds.call() RETURNS language_handler LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler';
CREATE LANGUAGE other HANDLER kinds.call; COMMENT ON LANGUAGE other IS 'a language';
CREATE TRANSFORM FOR int LANGUAGE plpgsql (FROM SQL WITH FUNCTION prsd_lextype(internal));
-- Types.
CREATE TYPE kinds.shade AS ENUM ('light', 'dark'); COMMENT ON TYPE kinds.shade IS 'of a colour';
CREATE TYPE kinds.place AS (x int, y int); COMMENT ON COLUMN kinds.place.y IS 'up';
CREATE TYPE kinds.span AS RANGE (subtype = float8, subtype_diff = float8mi, multirange_type_name = kinds.spans);
CREATE DOMAIN kinds.even AS int CONSTRAINT is_even CHECK (VALUE % 2 = 0) DEFAULT 2; COMMENT ON DOMAIN kinds.even IS 'by two';
COMMENT ON CONSTRAINT is_even ON DOMAIN kinds.even IS 'no rest';
CREATE FUNCTION kinds.number(kinds.shade) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT CASE $1 WHEN 'dark' THEN 1 ELSE 0 END $$;
CREATE CAST (kinds.shade AS int) WITH FUNCTION kinds.number(kinds.shade) AS ASSIGNMENT;
COMMENT ON CAST (kinds.shade AS int) IS 'as a number'; CREATE CAST (kinds.place AS text) WITH INOUT;
-- Texts.
CREATE CONVERSION kinds.latin FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8; COMMENT ON CONVERSION kinds.latin IS 'old';
CREATE COLLATION kinds.bytes (provider = libc, locale = 'C'); COMMENT ON COLLATION kinds.bytes IS 'by bytes';
CREATE TEXT SEARCH DICTIONARY kinds.words (template = simple, accept = false);
COMMENT ON TEXT SEARCH DICTIONARY kinds.words IS 'words';
CREATE TEXT SEARCH PARSER kinds.parts
  (start = prsd_start, gettoken = prsd_nexttoken, end = prsd_end, lextypes = prsd_lextype, headline = prsd_headline);
CREATE TEXT SEARCH TEMPLATE kinds.plain (init = dsimple_init, lexize = dsimple_lexize);
CREATE TEXT SEARCH CONFIGURATION kinds.search (parser = kinds.parts);
ALTER TEXT SEARCH CONFIGURATION kinds.search ADD MAPPING FOR asciiword, word WITH kinds.words, simple;
COMMENT ON TEXT SEARCH CONFIGURATION kinds.search IS 'a configuration';
-- Tables, and what belongs to them.
CREATE TABLE kinds.things (id int CONSTRAINT things_key PRIMARY KEY, t text CONSTRAINT said CHECK (t <> ''), shade kinds.shade,
  even kinds.even, far kinds.span, CONSTRAINT things_t UNIQUE NULLS NOT DISTINCT (t, even));
ALTER TABLE kinds.things ALTER t SET STORAGE EXTERNAL, ALTER t SET STATISTICS 7, ALTER t SET (n_distinct = 3),
  ALTER t SET COMPRESSION pglz, SET (fillfactor = 70, autovacuum_enabled = false), CLUSTER ON things_key,
  REPLICA IDENTITY USING INDEX things_key, ADD CONSTRAINT later CHECK (id > 0) NOT VALID;
COMMENT ON TABLE kinds.things IS 'things'; COMMENT ON COLUMN kinds.things.t IS E'tab\t and\nline';
COMMENT ON CONSTRAINT said ON kinds.things IS 'no empty one'; COMMENT ON CONSTRAINT later ON kinds.things IS 'not yet';
COMMENT ON CONSTRAINT things_key ON kinds.things IS 'a key';
CREATE INDEX by_length ON kinds.things (t kinds.by_length_ops); COMMENT ON INDEX kinds.by_length IS 'an index';
CREATE INDEX by_words ON kinds.things USING gin (to_tsvector('kinds.search', t)) WITH (fastupdate = off);
CREATE INDEX by_sum ON kinds.things ((id + even), t COLLATE kinds.bytes DESC NULLS LAST);
ALTER INDEX kinds.by_sum ALTER COLUMN 1 SET STATISTICS 9;
CREATE STATISTICS kinds.pairs (ndistinct, mcv) ON id, (even + 1) FROM kinds.things; COMMENT ON STATISTICS kinds.pairs IS 'pairs';
ALTER STATISTICS kinds.pairs SET STATISTICS 11;
CREATE TRIGGER noted AFTER UPDATE ON kinds.things REFERENCING OLD TABLE AS old_ones FOR EACH STATEMENT
  EXECUTE FUNCTION kinds.note('a''b');
COMMENT ON TRIGGER noted ON kinds.things IS 'a trigger'; ALTER TABLE kinds.things ENABLE ALWAYS TRIGGER noted;
CREATE CONSTRAINT TRIGGER checked AFTER INSERT ON kinds.things DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.id > 1)
  EXECUTE FUNCTION kinds.note();
ALTER TABLE kinds.things DISABLE TRIGGER checked;
CREATE POLICY few ON kinds.things AS RESTRICTIVE FOR UPDATE TO pg_monitor USING (id < 9) WITH CHECK (id < 5);
COMMENT ON POLICY few ON kinds.things IS 'a policy';
CREATE RULE aside AS ON INSERT TO kinds.things WHERE NEW.id < 0 DO INSTEAD NOTHING;
COMMENT ON RULE aside ON kinds.things IS 'a rule'; ALTER TABLE kinds.things DISABLE RULE aside;
CREATE UNLOGGED TABLE kinds.fleeting (n int); CREATE TABLE kinds.typed OF kinds.place (PRIMARY KEY (x));
CREATE SEQUENCE kinds.ticks AS smallint CACHE 5; COMMENT ON SEQUENCE kinds.ticks IS 'ticks';
CREATE TABLE kinds.hashed (n int) PARTITION BY HASH (n);
CREATE TABLE kinds.hashed_0 PARTITION OF kinds.hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE kinds.hashed_1 PARTITION OF kinds.hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1) PARTITION BY LIST (n);
CREATE TABLE kinds.hashed_1_rest PARTITION OF kinds.hashed_1 DEFAULT; ALTER TABLE kinds.hashed ADD PRIMARY KEY (n);
ALTER TABLE kinds.things ADD CONSTRAINT to_hashed FOREIGN KEY (id) REFERENCES kinds.hashed ON DELETE CASCADE NOT VALID;
CREATE ACCESS METHOD also_heap TYPE TABLE HANDLER heap_tableam_handler; COMMENT ON ACCESS METHOD also_heap IS 'a heap';
CREATE TABLE kinds.otherwise (n int) USING also_heap; CREATE TABLE kinds.as_usual (n int);
-- Views.
CREATE VIEW kinds.seen AS SELECT id, t FROM kinds.things WHERE id > 0 WITH LOCAL CHECK OPTION;
COMMENT ON VIEW kinds.seen IS 'a view'; ALTER VIEW kinds.seen ALTER t SET DEFAULT 'from the view';
CREATE MATERIALIZED VIEW kinds.kept WITH (fillfactor = 50) AS SELECT id FROM kinds.things;
CREATE UNIQUE INDEX ON kinds.kept (id); COMMENT ON MATERIALIZED VIEW kinds.kept IS 'kept';
CREATE MATERIALIZED VIEW kinds.unfilled AS SELECT 1 AS one WITH NO DATA;
CREATE FUNCTION kinds.body(a int) RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM kinds.things WHERE id = a; END;
-- What is elsewhere.
CREATE FOREIGN DATA WRAPPER nowhere OPTIONS (a 'b'); COMMENT ON FOREIGN DATA WRAPPER nowhere IS 'leads nowhere';
CREATE SERVER "far away" TYPE 't' VERSION '1' FOREIGN DATA WRAPPER nowhere OPTIONS (host 'x y');
COMMENT ON SERVER "far away" IS 'far'; CREATE USER MAPPING FOR postgres SERVER "far away";
CREATE USER MAPPING FOR PUBLIC SERVER "far away" OPTIONS (password 'it''s');
CREATE FOREIGN TABLE kinds.abroad (id int OPTIONS (name 'ID') NOT NULL, t text DEFAULT 'x') SERVER "far away" OPTIONS (table_name 'T');
COMMENT ON FOREIGN TABLE kinds.abroad IS 'abroad'; COMMENT ON COLUMN kinds.abroad.t IS 'a text';
CREATE PUBLICATION of_schemas FOR TABLES IN SCHEMA kinds; COMMENT ON PUBLICATION of_schemas IS 'a schema';
CREATE PUBLICATION of_rows FOR TABLE kinds.things (id, t) WHERE (id > 5), ONLY app.animal
  WITH (publish = 'insert, update', publish_via_partition_root);
CREATE PUBLICATION of_all FOR ALL TABLES WITH (publish = 'insert');
CREATE SUBSCRIPTION from_nowhere CONNECTION 'host=nowhere password=x' PUBLICATION p, q
  WITH (connect = false, slot_name = NONE, binary);
COMMENT ON SUBSCRIPTION from_nowhere IS 'a subscription';
-- Who watches, and who may do what.
CREATE FUNCTION kinds.watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER sees ON sql_drop EXECUTE FUNCTION kinds.watch();
COMMENT ON EVENT TRIGGER sees IS 'sees'; ALTER EVENT TRIGGER sees ENABLE REPLICA;
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO pg_monitor;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA kinds GRANT EXECUTE ON FUNCTIONS TO pg_monitor;
GRANT SELECT (id), UPDATE (t) ON kinds.things TO pg_monitor WITH GRANT OPTION;
GRANT USAGE ON FOREIGN DATA WRAPPER nowhere TO pg_monitor; GRANT USAGE ON FOREIGN SERVER "far away" TO pg_monitor;
REVOKE ALL ON FUNCTION kinds.sum_of FROM PUBLIC; REVOKE USAGE ON TYPE kinds.shade FROM PUBLIC;
INSERT INTO kinds.hashed SELECT generate_series(1, 20);
INSERT INTO kinds.things SELECT n, 'thing ' || n, 'dark', n * 2, '[1,2)' FROM generate_series(1, 20) n;
REFRESH MATERIALIZED VIEW kinds.kept;
