-- Fisher's Iris: which of three species a flower is, from four lengths in centimetres.
-- worker train sql training.sql --csv iris=iris.csv
CREATE OR REPLACE MODEL iris_model
OPTIONS(
  model_type='logistic_reg',
  input_label_cols=['species'],
  max_iterations=500,
  l2_reg=0.001
) AS
SELECT sepal_length, sepal_width, petal_length, petal_width, species
FROM iris
