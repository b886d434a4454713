CREATE TABLE kinds.newer (id int4range, at daterange, n int, twice int GENERATED ALWAYS AS (n * 2) VIRTUAL,
  PRIMARY KEY (id, at WITHOUT OVERLAPS), CONSTRAINT loose CHECK (n > 5) NOT ENFORCED);
INSERT INTO kinds.newer VALUES ('[1,2)', '[2026-01-01,)', 1);
CREATE TABLE kinds.newest (id int4range, at daterange, n int CONSTRAINT said_later NOT NULL,
  CONSTRAINT within FOREIGN KEY (id, PERIOD at) REFERENCES kinds.newer (id, PERIOD at) NOT ENFORCED);
ALTER TABLE kinds.newest ADD CONSTRAINT from_now_on NOT NULL id NOT VALID;
COMMENT ON CONSTRAINT said_later ON kinds.newest IS 'a name of its own';
CREATE PUBLICATION of_generated FOR TABLE kinds.as_usual WITH (publish_generated_columns = stored);
