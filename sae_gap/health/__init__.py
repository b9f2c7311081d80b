"""Is an SAE broken, or was it loaded wrongly?"""
