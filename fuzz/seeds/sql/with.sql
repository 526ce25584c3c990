create model m options(model_type="linear_reg") as with t as (select width as label, length from flowers) select * from t -- end
