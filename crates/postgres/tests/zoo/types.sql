CREATE TYPE mood AS ENUM ('sad', 'o''k "quoted"', 'happy');
CREATE DOMAIN positive AS numeric CHECK (value > 0);
CREATE TYPE pair AS (a int, b text);
CREATE TABLE types (
  i2 int2, i4 int4, i8 int8, n numeric, f4 float4, f8 float8, m money, b bool, t text, c char(5), v varchar(9), y bytea,
  d date, ti time, tz timetz, ts timestamp, tstz timestamptz, iv interval, u uuid, j json, jb jsonb, bi bit(3),
  vb varbit, ip inet, ci cidr, ma macaddr, pt point, ln line, bx box, pa path, po polygon, ci2 circle, tv tsvector,
  tq tsquery, r int4range, mr nummultirange, a int[], ta text[], e mood, ea mood[], dm positive, p pair, pp pair[],
  rc regclass, o oid, nm name, lsn pg_lsn
);
INSERT INTO types VALUES (
  -32768, -2147483648, -9223372036854775808, 'NaN', 'Infinity', '-0', '-92233720368547758.08', true, E'tab\t nl\n \\ é',
  'a', '', '\x00ff5c0a', '4713-01-01 BC', '24:00', '00:00:00+15:59:59', '-infinity', 'infinity', '-178000000 years',
  '00000000-0000-0000-0000-000000000000', '{"b" : 1, "a":null, "b":2, "z":"\u0000"}', '{"b":1,"a":null}',
  '101', '', '::1/64', '10.0.0.0/8', '08:00:2b:01:02:03', '(1e-300,-0)', '{1,2,3}', '(1,1),(0,0)', '[(0,0),(1,1)]',
  '((0,0),(1,1),(1,0))', '<(0,0),1>', '''it''''s'':1A b:2', 'a & !b', 'empty', '{[1,2),(5,]}', '[0:1][2:3]={{1,2},{3,NULL}}',
  ARRAY['NULL', NULL, '', '"', '\', ',', '{}'], 'o''k "quoted"', '{happy,sad}', 1e-30, '(1,"a, ""b"" \\")',
  '{"(1,x)","(,)"}', 'pg_class', 4294967295, 'a name', '16/B374D848'
);
INSERT INTO types (i2, n, f4, f8, t, y, d, ts, tstz, a, r, j) VALUES (
  32767, 1234567890123456789012345678901234567890.123456789012345678901234567890, 'NaN', 5e-324, '', '', 'infinity',
  '294276-12-31 23:59:59.999999', '0001-01-01 00:00:00+00 BC', '{}', '[1,)', 'null'
);
INSERT INTO types DEFAULT VALUES;
