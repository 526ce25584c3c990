CREATE MODEL lengths OPTIONS(model_type='linear_reg', input_label_cols=['length'], max_iterations=5, l2_reg=0.1, data_split_eval_fraction=0.5)
AS SELECT width, length FROM flowers
