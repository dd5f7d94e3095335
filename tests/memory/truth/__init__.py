"""Truth about memory: what llama.cpp's own planner would allocate, for models known by hyper-parameters alone."""
