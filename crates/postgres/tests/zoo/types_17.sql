INSERT INTO types (iv) VALUES ('infinity'), ('-infinity');
INSERT INTO more_types (ivls) VALUES ('{infinity,NULL,-infinity,00:00:00}');
