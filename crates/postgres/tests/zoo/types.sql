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
INSERT INTO types (i2, i4, i8, n, m, d, ts, tstz, iv) VALUES
  (32767, 2147483647, 9223372036854775807, 'Infinity', '92233720368547758.07', '5874897-12-31', '4714-11-24 00:00:00 BC',
   '4714-11-24 00:00:00+00 BC', '178000000 years -2147483648 days 2562047788:00:54.775807'),
  (0, -1, -9223372036854775807, '-Infinity', '0', '4714-11-24 BC', 'infinity', '294276-12-31 23:59:59.999999+00',
   '-2147483648 mons +2147483647 days -2562047788:00:54.775807');
INSERT INTO types DEFAULT VALUES;
CREATE TABLE more_types (
  ls lseg, lss lseg[], pts point[], lines line[], boxes box[], pa path, pas path[], pos polygon[], cis circle[],
  m8 macaddr8, m8s macaddr8[], ips inet[], jp jsonpath, jps jsonpath[], x xid, xs xid[], x8 xid8, x8s xid8[], c cid,
  cs cid[], tp tid, tps tid[], lsn pg_lsn, lsns pg_lsn[], sn pg_snapshot, sns pg_snapshot[], tsn txid_snapshot,
  tsns txid_snapshot[], r4 int4range, r8 int8range, rn numrange, rts tsrange, rtz tstzrange, rd daterange,
  rtzs tstzrange[], m4 int4multirange, mr8 int8multirange, mn nummultirange, mts tsmultirange, mtz tstzmultirange,
  md datemultirange, mds datemultirange[], rc regclass[], rt regtype, rns regnamespace, rr regrole, rco regcollation,
  rp regproc, rpc regprocedure, ro regoper, roa regoperator, rcf regconfig, rdi regdictionary, rts2 regtype[],
  ch "char", chs "char"[], nm name, nms name[], b1 bit, b3s bit(3)[], vb varbit, vbs varbit(8)[], bp bpchar, tv tsvector,
  tvs tsvector[], tq tsquery, tqs tsquery[], mo money, mos money[], ov oidvector, ovs oidvector[], iv int2vector,
  ivs int2vector[], acl aclitem, acls aclitem[], cursor refcursor, n numeric, ns numeric(10, -2)[], f4s float4[],
  f8s float8[], ys bytea[], us uuid[], js json[], jbs jsonb[], tzs timetz[], tszs timestamptz[], ivls interval[],
  bools bool[]
);
INSERT INTO more_types VALUES (
  '[(1e308,-1e308),(-0,5e-324)]', '{"[(1,2),(3,4)]",NULL}', '{"(NaN,Infinity)",NULL}', '{"{1,-1,0}",NULL}',
  '{(1,1),(0,0);NULL;(3,3),(2,2)}', '((0,0),(1,1))', '{"[(0,0)]",NULL}', '{"((0,0),(1,1))",NULL}', '{"<(1,-2),0>",NULL}',
  'ff:ff:ff:ff:ff:ff:ff:fe', '{08:00:2b:01:02:03:04:05,NULL}', '{255.255.255.255/0,ffff::/3,NULL}',
  'strict $."a b"[*] ? (@.c > -1.5 && @.d like_regex "^\"x\\d" flag "i").size()', '{$,"lax $.a[last, 1 to 2].**{2 to last}",NULL}',
  '4294967295', '{0,NULL}', '18446744073709551615', '{0,NULL}', '4294967295', '{0,NULL}', '(4294967295,65535)',
  '{"(0,0)",NULL}', 'FFFFFFFF/FFFFFFFF', '{0/0,NULL}', '1:9223372036854775807:1,9223372036854775806', '{1:1:,NULL}',
  '10:20:10,14,19', '{1:1:,NULL}', '[-2147483648,2147483647)', '[-9223372036854775808,9223372036854775807)',
  '(-Infinity,1e-30]', '[-infinity,infinity]', '["0001-01-01 00:00:00+00 BC",)', '["4713-01-01 BC",infinity)',
  '{"(,)",empty,NULL,"[infinity,]"}', '{[1,2),[5,)}', '{(,-9223372036854775807),[9223372036854775806,)}',
  '{[-Infinity,0),(0,0.10],[NaN,]}', '{}', '{[-infinity,"0001-01-01 00:00:00+00 BC"],["2026-01-01 00:00:00+00",infinity)}',
  '{["4713-01-01 BC",2026-01-01)}', '{"{}",NULL,"{(,)}"}', '{pg_class,pg_catalog.pg_type,-,4294967295,NULL}',
  'timestamp with time zone[]', 'pg_catalog', 'postgres', '"C"', 'now', 'sum(integer)', 'pg_catalog.||/',
  '+(integer,integer)', 'english', 'english_stem', '{"\"char\"",-,4294967295,NULL}', E'\\', '{a,"",NULL}',
  'a "name" of 63 bytes: éééééééééééééééééééé', '{"",NULL}', '1', '{101,NULL}', ('1' || repeat('0', 1000) || '1')::varbit,
  '{"",10101010,NULL}', 'trailing  ', '''a \\ b'':1A,16383 c', '{"",NULL}', '!( a:*AB <-> ''b c'' ) & ( d <16384> e | f )',
  '{a,NULL}', '92233720368547758.07', '{-92233720368547758.08,NULL}', '1 4294967295', '{"1 2",NULL,""}', '-32768 32767 0',
  '{"1 2",NULL,""}', 'postgres=a*r/postgres', '{=r/postgres,NULL}', 'a "cursor"', 1e-16383, '{12345678900,NULL,NaN}',
  '{NaN,-Infinity,3.4028235e38,1e-45,-0,NULL}', '{1.7976931348623157e308,-Infinity,5e-324,-0,NULL}', '{"\\x00ff","\\x",NULL}',
  '{ffffffff-ffff-ffff-ffff-ffffffffffff,NULL}', '{"{\"b\" : 1}",null,"null"}', '{"{\"b\" : 1}",null,"null"}',
  '{24:00:00-15:59:59,NULL}', '{infinity,-infinity,NULL}', '{"178000000 years -1 mons +2147483647 days -00:00:00.000001",NULL}',
  '{t,f,NULL}'
);
INSERT INTO more_types (r4, r8, rn, rts, rtz, rd, m4, mr8, mn, mtz, md, rt, rns, rr, rco, rp, rpc, ro, roa, rcf, rdi, ch, nm,
  b1, vb, bp, tv, tq, ov, iv, cursor, n, lss, boxes, sns, mds, tvs) VALUES (
  'empty', '(,)', '[NaN,]', '(,)', 'empty', '(,)', '{}', '{(,)}', '{}', '{}', '{(,)}', '-', '-', '-', '-', '-', '-', '0', '0',
  '-', '-', '', '', '0', '', '', '', '', '', '', '', 1e131071, '{}', '{}', '[0:1]={1:1:,NULL}', '[2:2][0:1]={{NULL,"{}"}}', '{}'
);
INSERT INTO more_types DEFAULT VALUES;
