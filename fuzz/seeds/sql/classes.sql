CREATE OR REPLACE MODEL flowers OPTIONS(model_type='logistic_reg', input_label_cols=['species'], max_iterations=5)
AS SELECT width, length, species FROM flowers
